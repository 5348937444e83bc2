"""Constraints that mean harm: small to write down, large or endless to compile."""

from typing import Any

from model import SamplingParams

Settings = dict[str, Any]


def reference_chain(length: int) -> Settings:
    """References to references: the compiler follows them by recursion."""
    links = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "integer"}}}


def intersected(count: int) -> Settings:
    """Expressions that must all hold: their states multiply."""
    return {"allOf": [{"type": "string", "pattern": f".*a.{{{i}}}"} for i in range(1, count)]}


def product(count: int) -> Settings:
    """Alternatives in each of several parts: 2 ** count of them together."""

    def part(name: str) -> Settings:
        return {"type": "object", "properties": {name: {"type": "integer"}}}

    return {"allOf": [{"anyOf": [part(f"a{i}"), part(f"b{i}")]} for i in range(count)]}


REFUSED: dict[str, Settings] = {
    "a chain of references": {"json_schema": reference_chain(3000)},
    "intersected patterns": {"json_schema": intersected(30)},
    "a product of alternatives": {"json_schema": product(16)},
    "nothing but itself": {"json_schema": {"$ref": "#"}},
    "two that are each other": {
        "json_schema": {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        }
    },
}

# These compile at once, since nothing is worked out before the text gets there.
ENDURED: dict[str, Settings] = {
    "backtracking": {"regex": r"(a+)+(a|aa)*(a*)*b"},
    "repeated repetitions": {"regex": r"(\w{1,1000}){1,1000}x"},
    "a long memory": {"regex": r"(a|b)*a(a|b){200}"},
    "overlapping": {"regex": "|".join("(a|b)*" + "ab" * i for i in range(1, 60))},
    "references that double": {
        "json_schema": {
            "$ref": "#/$defs/a0",
            "$defs": {
                **{
                    f"a{i}": {
                        "type": "array",
                        "prefixItems": [{"$ref": f"#/$defs/a{i + 1}"}] * 2,
                        "items": False,
                    }
                    for i in range(20)
                },
                "a20": {"type": "integer"},
            },
        }
    },
    "a million characters": {"json_schema": {"type": "string", "maxLength": 1_000_000}},
    "many properties": {
        "json_schema": {
            "type": "object",
            "properties": {f"property {i}": {"type": "string"} for i in range(500)},
        }
    },
}


def params(settings: Settings, **others: Any) -> SamplingParams:
    return SamplingParams(**settings, **others)
