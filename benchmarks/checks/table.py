"""The results of all checks as one table, beside what is aimed at. Plain Python."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Result = dict[str, Any]

# Of the copy bandwidth at the largest batch, of the matmul rate, and over transformers.
DECODE_AIM, PREFILL_AIM, PEER_AIM = 0.70, 0.60, 4.0


class Row(NamedTuple):
    """A line of the table."""

    check: str
    what: str
    value: str
    aim: str = ""


def rows(results: Sequence[Result]) -> list[Row]:
    """Give each check a line or more."""
    lines: list[Row] = []
    for result in results:
        check = result["check"]
        if result["status"] != "ok":
            reason = " ".join(str(result["reason"]).split())[:80]
            shape = result["shape"] if check in _LINES else ""
            lines.append(Row(check, shape, f"{result['status'].upper()}: {reason}"))
        else:
            lines += _LINES.get(check, _plain)(result)
    return lines + list(_beside(results))


def text(lines: Sequence[Row]) -> str:
    """Lay the table out in Markdown."""
    table = [Row("check", "of", "result", "aim"), *lines]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    padded = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def _plain(result: Result) -> Iterator[Row]:
    errors = [e for value in result.values() for e in _errors(value)]
    figure = f"worst error {max(errors):.2g}" if errors else f"in {result['seconds']:g} s"
    yield Row(result["check"], "", f"ok, {figure}")


def _errors(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [value["error"]] if "error" in value else []
    return [value] if isinstance(value, float) and value < 0.1 else []


def _versions(result: Result) -> Iterator[Row]:
    packages = result["packages"]
    names = ", ".join(f"{name} {packages[name]}" for name in ("torch", "triton", "transformers"))
    yield Row("versions", result.get("gpu", "CPU"), names)
    if result["missing"]:
        yield Row("versions", "missing", ", ".join(result["missing"]), "none")


def _ceilings(result: Result) -> Iterator[Row]:
    yield Row("ceilings", "bf16 matmul", f"{result['bf16_tflops']:g} TFLOP/s")
    yield Row("ceilings", "copy, read and written", f"{result['copy_gb_per_s']:g} GB/s")


def _switched(result: Result) -> Iterator[Row]:
    seconds = f"{result['on_s']:g} s on, {result['off_s']:g} s off"
    yield Row(result["check"], "the tiny model", f"same answers, {seconds}")
    if "host_waits" in result:
        yield Row(result["check"], "host waits at", ", ".join(result["host_waits"]), "none")


def _decode(result: Result) -> Iterator[Row]:
    for name, figures in result.items():
        if not isinstance(figures, dict) or "attention" not in figures:
            continue
        counts = [key for key in figures if key != "attention"]
        for count in counts:
            step = figures[count]
            value = f"{step['ms']:g} ms, {step['tokens_per_s']} tok/s, {step['share']:.0%} of copy"
            aimed = count == counts[-1] and name == "as chosen"
            aim = f"{DECODE_AIM:.0%}" if aimed else ""
            yield Row(f"decode {result['shape']}", f"{name}, {count} at once", value, aim)


def _prefill(result: Result) -> Iterator[Row]:
    for name, step in result.items():
        if isinstance(step, dict) and "share" in step:
            value = (
                f"{step['ms']:g} ms, {step['tokens_per_s']} tok/s, {step['share']:.0%} of matmul"
            )
            aim = f"{PREFILL_AIM:.0%}" if name == "as chosen" else ""
            yield Row(f"prefill {result['shape']}", name, value, aim)


def _workloads(result: Result) -> Iterator[Row]:
    for name, figures in result.items():
        if isinstance(figures, dict):
            out, total = figures["output_tokens_per_s"], figures["total_tokens_per_s"]
            value = f"{out:g} out, {total:g} total tok/s, {figures['tflops']:g} TFLOP/s"
            yield Row(f"{result['check']} {result['shape']}", name, value)


def _beside(results: Sequence[Result]) -> Iterator[Row]:
    """Set our rate beside that of transformers on the same kind of requests."""
    found = {(r["check"], r["shape"]): r for r in results if r["status"] == "ok"}
    for (check, shape), theirs in found.items():
        ours = found.get(("generate", shape))
        if check != "transformers" or ours is None:
            continue
        ratio = _random(ours)["total_tokens_per_s"] / _random(theirs)["total_tokens_per_s"]
        yield Row(
            f"ratio {shape}",
            "generate over transformers, random",
            f"{ratio:.2f}x",
            f"{PEER_AIM:g}x",
        )


def _random(result: Result) -> Result:
    figures: Result = next(v for key, v in result.items() if key.startswith("random:"))
    return figures


_LINES = {
    "versions": _versions,
    "ceilings": _ceilings,
    "graphs": _switched,
    "overlap": _switched,
    "decode": _decode,
    "prefill": _prefill,
    "generate": _workloads,
    "classify": _workloads,
    "transformers": _workloads,
}
