"""`gemmaray plan`: what is known of a job before it runs, as text and as JSON."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import typer
from rich.filesize import decimal

from pipelines.job import JobSpec
from pipelines.lengths import Lengths
from pipelines.preflight import Hardware, Preflight, preflight

from .options import UsageError
from .wording import compact, counted, duration, share

BAR_WIDTH = 32
SHOWN_BAD = 10
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def plan_job(
    spec: JobSpec,
    *,
    gpus: int | None,
    memory: str | None,
    tokens_per_s: float | None,
    like: str | None,
    as_json: bool,
) -> None:
    """Look at a job and print what was found out.

    Raises:
        GemmarayError: the job can't run.
    """
    hardware = Hardware(gpus, None if memory is None else parse_size(memory))
    found = preflight(spec, hardware=hardware, tokens_per_s=tokens_per_s, like=like)
    typer.echo(json.dumps(as_values(found)) if as_json else "\n".join(lines(found)))


def parse_size(text: str, option: str = "--memory") -> int:
    """Read a number of bytes: 80GiB, 24 GB, 16000000000.

    Raises:
        UsageError: it is something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    factor = ({**UNITS, **BINARY_UNITS}).get(match[2]) if match else None
    if match is None or factor is None or float(match[1]) <= 0:
        raise UsageError(f"{option} {text} is no size: write 80GiB, 24GB or a number of bytes")
    return int(float(match[1]) * factor)


def as_values(found: Preflight) -> dict[str, Any]:
    """Give what was found as JSON can hold it."""
    job, sample = found.job, found.sample
    return {
        "output": job.spec.output,
        "plan": None if found.resumed is None else found.plan.id,
        "parts_done": found.resumed or 0,
        "input": {
            "files": len(found.plan.files),
            "rows": found.plan.total_rows,
            "bytes": found.file_bytes,
            "row_groups": found.row_groups,
            "kept": job.kept.names,
        },
        "units": found.units,
        "unit_rows": found.plan.unit_rows,
        "sample": {
            "rows": sample.rows,
            "seed": sample.seed,
            "good": len(sample.good),
            "bad": [dataclasses.asdict(bad) for bad in sample.bad],
            "prompt_tokens": _lengths(sample.prompts),
        },
        "model": {
            "checkpoint": job.checkpoint.checkpoint,
            "revision": job.checkpoint.revision,
            "architecture": job.checkpoint.config.architecture,
            "dtype": job.checkpoint.dtype,
            "quantization": job.checkpoint.quantization,
            "max_model_len": job.checkpoint.max_model_len,
            "chat": job.checkpoint.chat,
            **dataclasses.asdict(found.weights),
        },
        "placement": dataclasses.asdict(job.placement),
        "memory": found.memory,
        "kv_cache": dataclasses.asdict(found.cache) if found.cache else None,
        "work": dataclasses.asdict(found.work),
        "time": dataclasses.asdict(found.time),
        "notes": list(found.notes),
    }


def lines(found: Preflight) -> Iterator[str]:
    """Say what was found."""
    job, plan = found.job, found.plan
    yield _line(
        "input",
        f"{counted(len(plan.files), 'file')}, {counted(plan.total_rows, 'row')}, "
        f"{decimal(found.file_bytes)}, {counted(found.row_groups, 'row group')}",
    )
    yield _line("units", f"{found.units:,} of {plan.unit_rows:,} rows, each becomes a part")
    yield _line("keep", ", ".join(job.kept.names) or "no column")
    way = "in a user turn of the chat template" if job.checkpoint.chat else "plain text"
    yield _line("prompt", way)
    yield from _sample(found)
    yield from _model(found)
    yield from _time(found)
    for note in found.notes:
        yield _line("note", note)


def _sample(found: Preflight) -> Iterator[str]:
    sample = found.sample
    good, bad = len(sample.good), sample.rows - len(sample.good)
    yield _line("sample", f"{counted(sample.rows, 'row')} (seed {sample.seed}): {good:,} good")
    if bad:
        about = counted(round(bad * found.plan.total_rows / sample.rows), "row")
        yield _line("", f"{bad:,} bad, {share(bad, sample.rows)}: about {about} of the job")
    over_long = sum(item.count for item in sample.bad if item.over_long)
    if over_long:
        yield _line("", f"{over_long:,} of these are too long")
    for item in sample.bad[:SHOWN_BAD]:
        yield _line("", f"{item.count:6,}  {item.reason} ({item.example})")
    prompts = sample.prompts
    if not len(prompts):
        return
    yield _line(
        "lengths",
        f"a prompt has {prompts.mean:,.0f} tokens in the mean, {prompts.percentile(0.5):,} in the "
        f"median, 95 % have at most {prompts.percentile(0.95):,}, the longest {prompts.longest:,}",
    )
    bins = prompts.bins()
    most = max(part.count for part in bins)
    for part in bins:
        bar = "█" * max(1, round(BAR_WIDTH * part.count / most)) if part.count else ""
        lengths = f"{part.low:,}" + (f" to {part.high:,}" if part.high > part.low else "")
        yield _line("", f"{lengths:>18} {bar} {part.count:,}")


def _model(found: Preflight) -> Iterator[str]:
    job, weights, cache = found.job, found.weights, found.cache
    resources = job.spec.resources
    ranks = resources.tensor_parallel
    each = f" on each of {ranks} ranks" if ranks > 1 else ""
    name = job.checkpoint.quantization
    quantized = "" if name == "none" else f", layers in {name}"
    yield _line(
        "model",
        f"{job.spec.model}: {compact(weights.parameters)} parameters, {job.checkpoint.dtype}"
        f"{quantized}, {decimal(weights.rank_bytes)} of weights{each}",
    )
    placement = job.placement
    least = "" if placement.least == placement.most else f"{placement.least} to "
    gpus, cpus = placement.num_gpus, placement.num_cpus
    where = counted(gpus, "GPU") if gpus else f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    yield _line("replicas", f"{least}{placement.most:,}, each on {where}")
    if cache is None or found.memory is None:
        return
    yield _line(
        "KV cache",
        f"{decimal(cache.token_bytes)} per token; {decimal(cache.total_bytes)} of the "
        f"{decimal(found.memory)} of memory: {cache.pages:,} pages of {cache.page_tokens} tokens",
    )
    for length, sequences in cache.by_length.items():
        yield _line("", f"{sequences:6,} sequences of {length:,} tokens in flight")
    longest = max(cache.sequence_bytes)
    held, whole = cache.sequence_bytes[longest], cache.windowless_bytes[longest]
    yield _line(
        "",
        f"{decimal(held)} for a sequence of {longest:,} tokens, {share(whole - held, whole)} less "
        "than without sliding windows",
    )


def _time(found: Preflight) -> Iterator[str]:
    work, time = found.work, found.time
    most = "at most " if work.at_most else ""
    yield _line(
        "tokens", f"{compact(work.prompt_tokens)} in, {most}{compact(work.completion_tokens)} out"
    )
    head = "ROUGH BOUND:" if time.basis == "bound" else "about"
    gpus = f", {time.gpu_hours:,.2f} GPU-hours" if time.gpu_hours else ""
    yield _line(
        "time",
        f"{head} {duration(time.seconds)} at {compact(time.tokens_per_s)} tokens/s on "
        f"{counted(time.replicas, 'replica')}{gpus}",
    )
    yield _line("", time.detail)
    if work.at_most:
        yield _line("", "if every answer is as long as max_tokens lets it be")
    if time.basis == "bound":
        yield _line(
            "", "for a better one: --like the OUTPUT of a finished job, --tokens-per-second"
        )


def _line(name: str, text: str) -> str:
    return f"{name:9} {text}"


def _lengths(lengths: Lengths) -> dict[str, Any]:
    return {
        "mean": lengths.mean,
        "median": lengths.percentile(0.5),
        "p95": lengths.percentile(0.95),
        "longest": lengths.longest,
        "histogram": [dataclasses.asdict(part) for part in lengths.bins()],
    }
