"""`gemmaray status`: how far a job is, once or again and again."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.s3 import S3Settings
from pipelines.status import Status, read_status

from .wording import counted, duration, share

REFRESH_S = 5.0
SHOWN_REPLICAS = 8


def show_status(url: str, s3: S3Settings, *, full: bool, watch: bool, as_json: bool) -> None:
    """Print a job's status; with `watch`, until the job is complete or Ctrl-C is pressed.

    Raises:
        GemmarayError: there is no job, or it can't be reached.
    """
    look = partial(read_status, url, s3, full=full)
    status = look()
    if not watch:
        typer.echo(_as_json(status) if as_json else "\n".join(lines(status)))
        return
    try:
        _watch(look, status, as_json=as_json)
    except KeyboardInterrupt:
        return  # the way to leave


def _watch(look: Callable[[], Status], status: Status, *, as_json: bool) -> None:
    console = Console()
    if as_json or not console.is_terminal:
        while True:
            typer.echo(_as_json(status) if as_json else "\n".join([*lines(status), ""]))
            if status.state == "complete":
                return
            time.sleep(REFRESH_S)
            status = look()
    with Live(_text(status), console=console, auto_refresh=False) as live:
        while status.state != "complete":
            time.sleep(REFRESH_S)
            status = look()
            live.update(_text(status), refresh=True)


def _text(status: Status) -> Text:
    return Text("\n".join(lines(status)))


def _as_json(status: Status) -> str:
    return json.dumps(dataclasses.asdict(status))


def lines(status: Status) -> Iterator[str]:
    """Say how far the job is."""
    yield f"output    {status.output}: {_state(status)}"
    yield f"parts     {status.parts:,} of {status.parts_planned:,}"
    done = share(status.rows, status.rows_planned)
    yield f"rows      {status.rows:,} of {status.rows_planned:,} ({done})"
    if rate := status.rate:
        over = f"over {duration(rate.seconds)}"
        yield f"rate      {rate.rows:,.1f} rows, {rate.tokens:,.0f} tokens per second, {over}"
    if status.eta is not None:
        yield f"ETA       {duration(status.eta)}"
    yield f"errors    {_errors(status)}"
    if status.damaged:
        yield f"damaged   {counted(status.damaged, 'part')}; gemmaray verify names them"
    if status.strays:
        yield f"strays    {counted(status.strays, 'Parquet file')} of no part of the plan"
    if status.replicas:
        yield f"replicas  {len(status.replicas)} finished units lately"
    for replica in status.replicas[:SHOWN_REPLICAS]:
        work = f"{counted(replica.parts, 'part')}, {counted(replica.rows, 'row')}"
        yield f"          {replica.replica[:8]}  {work}, the last {duration(replica.last)} ago"


def _state(status: Status) -> str:
    if status.state == "complete":
        return "complete"
    if status.last_part is None:
        return "planned, no part yet"
    last = f"the last part came {duration(status.last_part)} ago"
    if status.state == "running":
        return f"running, {last}"
    return f"stopped, or its units take long: {last}"


def _errors(status: Status) -> str:
    found = f"{counted(status.failed, 'row')}"
    if status.failed_of >= status.rows:
        return f"{found} ({share(status.failed, status.failed_of)})"
    about = round(status.failed * status.rows / max(1, status.failed_of))
    return f"{found} in {status.failed_of:,} looked at, about {about:,} in all; --full counts them"
