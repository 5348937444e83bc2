"""What a user may ask an answer to be, and what is refused at once, in one line."""

import json
import pickle
from typing import Any

import pytest

from model import ParameterError, SamplingParams
from model.constraint import (
    MAX_CHOICES,
    MAX_REGEX_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    Constraint,
)


def nested(depth: int) -> dict[str, Any]:
    """Return maps in maps, with something in the innermost."""
    schema: dict[str, Any] = {"minItems": 1}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def test_a_schema_is_kept_as_text_in_the_order_of_its_keys() -> None:
    schema = {"type": "object", "properties": {"b": {"enum": ["é", 1.5, None]}, "a": {}}}
    params = SamplingParams(json_schema=schema)
    assert params.constraint == Constraint("json_schema", json.dumps(schema, ensure_ascii=False))
    assert SamplingParams(json_schema=json.dumps(schema)) == params
    assert SamplingParams(json_schema=params.json_schema) == params
    other = {"type": "object", "properties": {"a": {}, "b": {"enum": ["é", 1.5, None]}}}
    assert SamplingParams(json_schema=other) != params


@pytest.mark.parametrize(
    ("settings", "constraint"),
    [
        ({}, None),
        ({"json_object": False}, None),
        ({"json_object": True}, Constraint("json_object")),
        ({"regex": "a|b"}, Constraint("regex", "a|b")),
        ({"choice": ["yes", "no"]}, Constraint("choice", ("yes", "no"))),
        ({"choice": "yes"}, Constraint("choice", ("yes",))),
    ],
)
def test_constraints_travel(settings: dict[str, Any], constraint: Constraint | None) -> None:
    params = SamplingParams(**settings)
    assert params.constraint == constraint
    assert pickle.loads(pickle.dumps(params)) == params
    assert hash(constraint) == hash(pickle.loads(pickle.dumps(constraint)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"json_schema": [1]}, "json_schema: must be a JSON schema, a map, got [1]"),
        ({"json_schema": True}, "json_schema: must be a JSON schema, a map, got True"),
        ({"json_schema": "{"}, "json_schema: is not valid JSON"),
        ({"json_schema": "[" * 100_000}, "json_schema: is not valid JSON: it is nested too deep"),
        ({"json_schema": {"a": float("nan")}}, "json_schema: must hold what JSON has"),
        ({"json_schema": '{"a": NaN}'}, "json_schema: must hold what JSON has"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema: must hold what JSON has"),
        ({"json_schema": {"properties": {True: {}}}}, "the key True is no text"),
        ({"json_schema": {"x-guidance": {"lenient": True}}}, "must not hold 'x-guidance'"),
        ({"json_schema": nested(MAX_SCHEMA_DEPTH + 1)}, f"more than {MAX_SCHEMA_DEPTH} deep"),
        ({"json_schema": {"a": "x" * MAX_SCHEMA_BYTES}}, f"at most {MAX_SCHEMA_BYTES} bytes"),
        ({"json_schema": {"a": "\ud800"}}, "half a character"),
        ({"regex": ""}, "regex: must not be empty"),
        ({"regex": "x" * (MAX_REGEX_BYTES + 1)}, f"at most {MAX_REGEX_BYTES} bytes"),
        ({"regex": "a\0"}, "regex: must not hold NUL"),
        ({"regex": 1}, "regex"),
        ({"choice": []}, "choice: must hold at least one text"),
        ({"choice": ["a", ""]}, "choice: must hold at least one text, and none that is empty"),
        ({"choice": ["a", "b", "a"]}, "choice: holds 'a' more than once"),
        ({"choice": ["a", 1]}, "choice.1"),
        ({"choice": list(map(str, range(MAX_CHOICES + 1)))}, f"at most {MAX_CHOICES} texts"),
        ({"choice": ["\ud800"]}, "half a character"),
        ({"json_object": 1}, "json_object"),
        ({"json_object": True, "regex": "a"}, "give one of json_object and regex"),
        ({"json_schema": {}, "choice": ["a"]}, "give one of json_schema and choice"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos contradicts regex"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        SamplingParams(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_the_largest_that_are_allowed() -> None:
    SamplingParams(json_schema=nested(MAX_SCHEMA_DEPTH))
    SamplingParams(regex="x" * MAX_REGEX_BYTES)
    SamplingParams(choice=[str(n) for n in range(MAX_CHOICES)])
