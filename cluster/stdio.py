"""Prompts on standard input, answers on standard output: one engine in this process, no Ray.

Rows go the way they go in a job, so a line gets what the same text gets in Parquet.
"""

import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from actors.replica import Outcome, Request
from model import Engine
from model.errors import GemmarayError
from pipelines.checkpoint_info import CheckpointInfo, inspect_checkpoint
from pipelines.job import JobSpec
from pipelines.packet import PROMPTS, unpacked
from pipelines.plan import Unit
from pipelines.prepare import Preparer
from pipelines.reader import UnitRows
from pipelines.tasks import JobTasks, tasks_of
from pipelines.work import JobWork

from .options import LINE
from .summary import tokens
from .wording import counted

SOURCE = "standard input"
SOME_LINE_FAILED = 1


@dataclass(frozen=True, slots=True)
class _Line:
    """A prompt: what to ask the engine, and the columns that are known of it before.

    They say why it can't be asked, where that is so.
    """

    request: Request | None
    cells: dict[str, Any]


def answer_lines(spec: JobSpec, *, as_json: bool = False, quiet: bool = False) -> int:
    r"""Answer each line of standard input with one line, in order, and give the exit status.

    Without `as_json` an answer is the generated text; label and probability with a tab between
    them; or a JSON list of entities or numbers. The answer to a single prompt is printed as it is;
    among several, line breaks in an answer are written \n. A prompt that fails leaves an empty
    line, and its reason on standard error.

    Raises:
        GemmarayError: the checkpoint can't be used, or can't do the task.
    """
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    if sys.stdin.isatty():
        console.print("type prompts, one per line, and Ctrl-D behind the last")
    prompts = sys.stdin.buffer.read().splitlines()
    checkpoint = inspect_checkpoint(spec)
    tasks = tasks_of(spec, checkpoint)
    lines = _prepare(spec, checkpoint, tasks, prompts)
    show = _json if as_json else partial(_plain, alone=len(prompts) == 1)
    started, failed = time.monotonic(), 0
    with Engine(checkpoint.engine_config(spec)) as engine:
        for number, (line, outcome) in enumerate(_answers(engine, lines), 1):
            cells = _cells(tasks, line, outcome)
            if cells["error"] is not None:
                failed += 1
                sys.stderr.write(f"gemmaray: line {number}: {cells['error']}\n")
            sys.stdout.write(f"{show(cells)}\n")
            sys.stdout.flush()
        speed = tokens(
            engine.stats.prompt_tokens, engine.stats.output_tokens, time.monotonic() - started
        )
    way = "chat template" if checkpoint.chat else "plain text"
    console.print(
        f"{counted(len(prompts), 'prompt')} ({way}), {counted(failed, 'error')}; tokens: {speed}"
    )
    return SOME_LINE_FAILED if failed else 0


def _prepare(
    spec: JobSpec, checkpoint: CheckpointInfo, tasks: JobTasks, prompts: Sequence[bytes]
) -> list[_Line]:
    preparer = Preparer.of(spec, checkpoint, tasks, pa.schema([]))
    # A view: what is not UTF-8 becomes the error of its line, not of all.
    column = pa.array(prompts, pa.binary()).view(pa.string())
    rows = UnitRows(Unit(0, 0, len(prompts)), pa.table({LINE: column}), {})
    packet = preparer.packet(rows, SOURCE)
    seed = spec.tasks.generate.seed if spec.tasks.generate else None
    work = JobWork(tasks, secrets.randbits(63) if seed is None else seed)
    names = ["prompt_tokens", *(field.name for field in tasks.length_fields), "error"]
    prepared = unpacked(packet, PROMPTS).select(names).to_pylist()
    requests = work.requests(packet)
    return [_Line(request, row) for request, row in zip(requests, prepared, strict=True)]


def _answers(engine: Engine, lines: Sequence[_Line]) -> Iterator[tuple[_Line, Outcome | None]]:
    """Compute all lines together, and give each as soon as it and those before it are done."""
    outcomes: dict[int, Outcome] = {}
    for number, line in enumerate(lines):
        if line.request:
            try:
                engine.add_request(
                    line.request.prompt_ids,
                    line.request.tasks,
                    request_id=str(number),
                    adapter=line.request.adapter,
                )
            except GemmarayError as error:
                outcomes[number] = error
    for number, line in enumerate(lines):
        while line.request and number not in outcomes:
            for update in engine.step():
                outcome = update.output or update.error
                if outcome is not None:
                    outcomes[int(update.request_id)] = outcome
        yield line, outcomes.pop(number, None)


def _cells(tasks: JobTasks, line: _Line, outcome: Outcome | None) -> dict[str, Any]:
    """Give the result columns of a line, as a job would write them."""
    if outcome is None:
        return line.cells
    try:
        if isinstance(outcome, GemmarayError):
            raise outcome
        return line.cells | tasks.cells(outcome.results)
    except GemmarayError as error:
        return line.cells | {"error": str(error)}


def _plain(cells: dict[str, Any], *, alone: bool) -> str:
    if "generated_text" in cells:
        text = str(cells["generated_text"])
        return text if alone else text.replace("\r", "\\r").replace("\n", "\\n")
    if "label" in cells:
        return f"{cells['label']}\t{cells['label_score']:.6f}"
    values = cells.get("entities", cells.get("embedding"))
    return "" if values is None else _json(values)


def _json(value: Any) -> str:
    return json.dumps(value, default=np.ndarray.tolist)
