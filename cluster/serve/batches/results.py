"""From the parts of a batch's job to the two files that its owner gets, in the order of his lines.

The parts are proven to hold each line once before anything is written.
"""

import json
from collections.abc import Iterator

from pipelines.errors import JobError
from pipelines.output import Output, open_output
from pipelines.verify import verify

ROWS = 64
COLUMNS = ["custom_id", "id", "status", "body", "error_class", "error"]


def check_results(url: str) -> None:
    """Prove that a job's output holds each line once, under its own custom_id.

    Raises:
        JobError: it does not.
    """
    found = verify(url)
    if not found.proven:
        what = [f"{item.where} {item.what}" for item in found.findings[:1]]
        reason = next(iter((*what, *found.unchecked)), "")
        raise JobError(f"the results of this batch are not whole: {reason}")


def result_lines(url: str, *, failed: bool) -> Iterator[bytes]:
    """Write the answers, or else what stands in for those that there are none of.

    Raises:
        JobError: a part can't be read.
    """
    output: Output = open_output(url)
    for unit in output.units:
        with output.part(unit) as part:
            for batch in part.iter_batches(ROWS, columns=COLUMNS):
                for row in batch.to_pylist():
                    if (row["error"] is not None) == failed:
                        yield _line(**row)


def _line(
    custom_id: str,
    id: str,  # noqa: A002
    status: int | None,
    body: str | None,
    error_class: str | None,
    error: str | None,
) -> bytes:
    """Write a line; the body is JSON already."""
    response = reason = "null"
    if status is None:
        reason = _json({"code": error_class, "message": error})
    else:
        request = id.replace("batch_req", "req")
        response = f'{{"status_code": {status}, "request_id": "{request}", "body": {body}}}'
    head = f'{{"id": {_json(id)}, "custom_id": {_json(custom_id)}'
    return f'{head}, "response": {response}, "error": {reason}}}\n'.encode()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
