"""`gemmaray verify`: the findings line by line, and a verdict."""

import dataclasses
import json
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from pipelines.s3 import S3Settings
from pipelines.verify import Verification, verify

from .wording import counted

PROVEN, NOT_PROVEN, NOT_CHECKED = 0, 1, 2
SHOWN = 20


def verify_output(url: str, s3: S3Settings, *, with_input: bool, as_json: bool) -> int:
    """Verify an output, print what was found, and give the exit status.

    Raises:
        GemmarayError: it can't be checked at all.
    """
    console = Console(stderr=True, quiet=as_json)
    columns = (BarColumn(), MofNCompleteColumn(), "parts")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        found = verify(
            url,
            s3,
            with_input=with_input,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(found), "proven": found.proven}))
    else:
        typer.echo("\n".join(lines(found, with_input=with_input)))
    return status(found)


def status(found: Verification) -> int:
    """Give the exit status: a fault counts more than what could not be checked."""
    if found.proven:
        return PROVEN
    return NOT_PROVEN if found.faults else NOT_CHECKED


def lines(found: Verification, *, with_input: bool) -> Iterator[str]:
    """Say what was found: a line for each of the first findings, and one with the figures."""
    for finding in found.findings[:SHOWN]:
        yield f"{finding.where}: {finding.what}"
    if found.faults > SHOWN:
        yield f"and {found.faults - SHOWN:,} findings more"
    for reason in found.unchecked[:SHOWN]:
        yield f"not compared: {reason}"
    if len(found.unchecked) > SHOWN:
        yield f"and {len(found.unchecked) - SHOWN:,} input files more"
    if found.unchecked:
        yield "--no-input proves the rows alone"
    yield f"{_verdict(found)}: {'; '.join(_figures(found, with_input=with_input))}"


def _verdict(found: Verification) -> str:
    if found.proven:
        return "proven"
    if found.faults:
        return f"NOT proven, {counted(found.faults, 'fault')}"
    return "can't be proven"


def _figures(found: Verification, *, with_input: bool) -> Iterator[str]:
    parts = f"{found.parts:,} of {counted(found.parts_planned, 'part')}"
    if found.parts == found.parts_planned:
        parts = counted(found.parts, "part")
    if found.rows == found.rows_planned:
        yield f"{counted(found.rows, 'row')} in {parts}, each there exactly once"
    else:
        yield f"{found.rows:,} of {counted(found.rows_planned, 'row')} in {parts}"
    if not found.kept:
        yield "no kept columns"
    elif with_input:
        kept = counted(len(found.kept), "kept column")
        equal = "equal to the input's" if found.proven else "compared with the input's"
        yield f"{kept} {equal} in {counted(found.rows_compared, 'row')}"
    else:
        yield "kept columns not compared (--no-input)"
    yield f"{counted(found.rows_failed, 'row')} with an error"
