"""Lines of a batch whose file was found to be good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.serve.errors import ApiError
from pipelines.jsonl import Line, parse_line


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request.

    Attributes:
        custom_id: what its sender calls it.
        body: what it asks for.
        refusal: why it is not even looked at.
    """

    custom_id: str
    body: Mapping[str, Any]
    refusal: ApiError | None = None


def read_line(line: Line, most: int) -> BatchLine:
    """Read a line.

    Args:
        line: as check_lines found it.
        most: bytes of a request, as online.
    """
    request = parse_line(line)
    refusal = None
    if isinstance(line, bytes) and len(line) > most:
        refusal = ApiError(413, f"the line is larger than {most} bytes", code="body_too_large")
    return BatchLine(request["custom_id"], request["body"], refusal)
