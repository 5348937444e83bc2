"""Whether a file can be a batch at all: JSON lines, all for one endpoint, each with its own id.

What a line asks of its endpoint is not looked at here: where it can't be had, that line alone
fails.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster.serve.protocol.batches import BatchFinding
from model.errors import PromptError
from pipelines.jsonl import Line, parse_line

KEYS = frozenset({"custom_id", "method", "url", "body"})
MOST_FINDINGS = 100
LONGEST_ID = 512


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found.

    Attributes:
        total: lines.
        findings: what is wrong; the first of it where that is much.
    """

    total: int
    findings: tuple[BatchFinding, ...]


def check_lines(lines: Iterable[Line], url: str, most: int) -> Checked:
    """Look at all lines of a file.

    Args:
        lines: of the file.
        url: that each must be for.
        most: lines that it may have.
    """
    ids: set[str] = set()
    findings: list[BatchFinding] = []
    total = 0
    for total, line in enumerate(lines, 1):
        if total > most:
            findings.append(_finding("too_many_requests", f"there are more than {most} lines"))
            break
        if len(findings) < MOST_FINDINGS:
            findings += _findings(line, total, url, ids)
    if not total:
        findings.append(_finding("empty_file", "there is no line in the file"))
    return Checked(total, tuple(findings[:MOST_FINDINGS]))


def _findings(line: Line, number: int, url: str, ids: set[str]) -> Iterator[BatchFinding]:
    try:
        request = parse_line(line)
    except PromptError as error:
        yield _finding("invalid_json_line", str(error), number)
        return
    for name in sorted(KEYS - request.keys()):
        yield _finding("missing_required_parameter", f"{name} is missing", number, name)
    if request.keys() - KEYS:
        message = f"a line holds {', '.join(sorted(KEYS))}, and nothing else"
        yield _finding("unknown_parameter", message, number)
    if "custom_id" in request:
        yield from _id_findings(request["custom_id"], number, ids)
    if request.get("method", "POST") != "POST":
        yield _finding("invalid_method", "method must be POST", number, "method")
    if request.get("url", url) != url:
        message = f"url must be {url}, as the batch was made for it"
        yield _finding("mismatched_url", message, number, "url")
    if not isinstance(request.get("body", {}), dict):
        yield _finding("invalid_body", "body must be an object", number, "body")


def _id_findings(value: Any, number: int, ids: set[str]) -> Iterator[BatchFinding]:
    if not (isinstance(value, str) and 0 < len(value) <= LONGEST_ID and _is_unicode(value)):
        message = f"custom_id must be a text of 1 to {LONGEST_ID} characters"
        yield _finding("invalid_custom_id", message, number, "custom_id")
    elif value in ids:
        message = "another line before has the same custom_id"
        yield _finding("duplicate_custom_id", message, number, "custom_id")
    else:
        ids.add(value)


def _is_unicode(value: str) -> bool:
    """Whether it is whole: JSON can spell half of a character, which nothing can store."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _finding(
    code: str, message: str, line: int | None = None, param: str | None = None
) -> BatchFinding:
    return BatchFinding(code=code, message=message, line=line, param=param)
