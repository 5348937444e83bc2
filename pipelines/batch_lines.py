"""Input lines of OpenAI's Batch API: chat messages in `body`, beside settings of each request.

A job has one set of settings for all rows. What a line asks for must be the same, or its row is an
error: it is never left out in silence.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from model.constraint import Constraint, schema_text

from .job import JobSpec
from .json_columns import JSON_MARK

KEYS = {"custom_id", "method", "url", "body"}
URL = "/v1/chat/completions"
# Of no consequence for the answer.
LABELS = {"metadata", "user", "store"}

# Settings whose names or values are others in a body, or which it has none of.
OTHERWISE_NAMED = {
    "stop",
    "stop_token_ids",
    "logit_bias",
    "logprobs",
    "json_schema",
    "json_object",
    "regex",
    "choice",
}

BATCH_SCHEMA = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("messages", pa.string(), metadata=JSON_MARK),
    ]
)


def is_batch_line(row: Mapping[str, Any]) -> bool:
    """Whether an object is a request of a batch."""
    return "custom_id" in row and isinstance(row.get("body"), dict)


def job_settings(spec: JobSpec) -> dict[str, Any]:
    """Give what the body of a line may ask for: the names are OpenAI's, the values the job's."""
    settings: dict[str, Any] = {"model": spec.model, "stream": False}
    generate = spec.tasks.generate
    if generate is None:
        return settings
    return {
        **settings,
        **generate.model_dump(exclude=OTHERWISE_NAMED),
        "response_format": _format_of(generate.constraint),
        "max_completion_tokens": generate.max_tokens,
        "stop": list(generate.stop),
        "stop_token_ids": list(generate.stop_token_ids),
        "logit_bias": {str(token): bias for token, bias in generate.logit_bias.items()},
        "logprobs": generate.logprobs is not None,
        "top_logprobs": generate.logprobs or 0,
    }


def batch_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns of a line; null what is not there."""
    body = row.get("body")
    messages = body.get("messages") if isinstance(body, dict) else None
    return {"custom_id": row.get("custom_id"), "messages": messages}


def batch_fault(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Say what a line asks for that the job does not do, or None if all is well.

    Args:
        row: the object in the line.
        settings: the job's, see job_settings.
    """
    unknown = sorted(set(row) - KEYS)
    if unknown:
        return f"the line holds {unknown[0]!r}, which is no part of a batch request"
    if row.get("method", "POST") != "POST" or row.get("url", URL) != URL:
        return f"the line is no POST to {URL}"
    body = row.get("body")
    if not isinstance(body, dict):
        return "the line has no body"
    asked = {name: value for name, value in body.items() if name not in {"messages", *LABELS}}
    faults = (_fault(n, value, settings) for n, value in asked.items() if value is not None)
    return next((fault for fault in faults if fault), None)


def _fault(name: str, value: Any, settings: Mapping[str, Any]) -> str | None:
    if name not in settings:
        return f"body.{name} is not among the settings of this job: take it out"
    expected = settings[name]
    if name == "response_format":
        value, expected = _comparable(value), _comparable(expected)
    if name == "model":
        same = bool(value) and f"/{expected}".endswith(f"/{value}")
    else:
        same = _same([value] if name == "stop" and isinstance(value, str) else value, expected)
    if same:
        return None
    return (
        f"body.{name} is {_short(value)}, and {_short(expected)} in the job: all rows have the "
        "job's settings"
    )


def _format_of(constraint: Constraint | None) -> dict[str, Any]:
    """Give the response_format that asks for what the job does."""
    if constraint is None:
        return {"type": "text"}
    if constraint.kind == "json_schema":
        assert isinstance(constraint.text, str)
        return {"type": "json_schema", "json_schema": {"schema": json.loads(constraint.text)}}
    return {"type": constraint.kind}  # of regex and choice a body knows nothing


def _comparable(response_format: Any) -> Any:
    """Leave out of a response_format what has no consequence; the order of keys in a schema has."""
    inner = response_format.get("json_schema") if isinstance(response_format, dict) else None
    if not isinstance(inner, dict) or response_format.get("type") != "json_schema":
        return response_format
    try:
        schema = schema_text(inner.get("schema"))
    except ValueError:
        return response_format
    return {"type": "json_schema", "schema": schema}


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
