"""All checks of the doctor, one after the other, and what a person sees of them."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import typer

from pipelines.s3 import S3Settings

from . import compute, machine, software
from .finding import Finding

MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}
WIDTH = max(map(len, MARKS.values()))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be looked at beside this machine; None for what was not named.

    Attributes:
        model: a checkpoint.
        revision: of a hub id.
        address: of a Ray cluster.
        output: a folder, local or s3://.
        s3: how S3 is reached.
        port: of `gemmaray serve`.
    """

    model: str | None
    revision: str | None
    address: str | None
    output: str | None
    s3: S3Settings
    port: int


def examine(subject: Subject) -> Iterator[Finding]:
    """Run all checks that make sense; those that need torch come late, since it takes seconds."""
    yield from software.examine()
    yield from machine.examine(subject.port)
    if ray := software.installed_version("ray"):
        from . import ray_cluster  # noqa: PLC0415 - without Ray it can't be asked

        yield from ray_cluster.examine(subject.address, ray)
    yield from compute.examine()
    if subject.model or subject.output:
        from . import data  # noqa: PLC0415 - it imports what was just checked

        if subject.model:
            yield from data.examine_model(subject.model, subject.revision)
        if subject.output:
            yield data.examine_output(subject.output, subject.s3)


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come, and give the command's exit status."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            for line in lines(finding):
                typer.echo(line)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in seen]))
    return int(any(finding.state == "problem" for finding in seen))


def lines(finding: Finding) -> Iterator[str]:
    """Write a finding, and below it what to do."""
    yield f"{MARKS[finding.state]:{WIDTH}}  {finding.check}: {finding.text}"
    if finding.fix:
        yield f"{'':{WIDTH}}  -> {finding.fix}"
