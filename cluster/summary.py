"""What is said about a job when it is done."""

from collections.abc import Sequence

from pipelines import ErrorCount, JobReport
from pipelines.quarantine import BadFile

from .wording import counted, duration

INDENT = " " * 9  # the width of a line's name
MESSAGE_WIDTH = 100
SHOWN_FILES = 3


def summary(report: JobReport) -> str:
    """Say what was done, how fast, and where the results are."""
    rows = f"{counted(report.rows_done, 'row')}, {counted(report.rows_failed, 'error')}"
    if report.rows_resumed and not report.rows_retried:
        rows += f" ({report.rows_resumed:,} were there already)"
    lines = {"rows": rows}
    if report.rows_retried:
        mended = counted(report.rows_mended, "row")
        lines["retried"] = f"{counted(report.rows_retried, 'row')}; {mended} good now"
    if report.rows_failed:
        lines["errors"] = errors(report.errors)
    if report.quarantined:
        lines["left out"] = left_out(report.quarantined)
    lines |= {
        "tokens": tokens(report.prompt_tokens, report.completion_tokens, report.elapsed_s),
        "time": f"{duration(report.elapsed_s)} on {counted(report.replicas, 'replica')}",
        "prompt": "in a user turn of the chat template" if report.chat else "plain text",
        "output": f"{report.output} ({counted(report.parts, 'part')})",
        "read it": f"pyarrow.parquet.read_table({report.output!r})",
    }
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())


def errors(counts: Sequence[ErrorCount]) -> str:
    """Say how many rows failed in which way, with an example of each."""
    rows = [f"{counted(item.count, 'row')}: {item.name}{_example(item)}" for item in counts]
    return f"\n{INDENT}".join([*rows, "each failed row says why in its column `error`"])


def _example(item: ErrorCount) -> str:
    if not item.file:
        return ""
    message = " ".join(item.message.split())
    return f", such as {item.file} row {item.row}: {shortened(message)}"


def shortened(text: str) -> str:
    """Cut a message to what a line holds."""
    return text if len(text) <= MESSAGE_WIDTH else f"{text[: MESSAGE_WIDTH - 3]}..."


def left_out(files: Sequence[BadFile]) -> str:
    """Say which input files took no part, the first of them with the reason."""
    some = [f"{file.name} {file.reason}" for file in files[:SHOWN_FILES]]
    more = ["..."] if len(files) > SHOWN_FILES else []
    listing = "; ".join([*some, *more])
    return f"{counted(len(files), 'input file')}, see _job/quarantine.json: {listing}"


def tokens(prompt_tokens: int, completion_tokens: int, seconds: float) -> str:
    """Say how many tokens were read and written, and how many that is per second."""
    per_second = (prompt_tokens + completion_tokens) / max(seconds, 1e-9)
    return f"{prompt_tokens:,} in, {completion_tokens:,} out, {per_second:,.0f} per second"
