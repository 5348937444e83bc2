"""Answers under a constraint: what comes out is valid, and nobody else notices."""

import json
import re
import time
from typing import Any

import jsonschema
import pytest

from model import (
    ConstraintError,
    Generate,
    GenerationOutput,
    SamplingParams,
    ScoreLabels,
    TaskError,
)
from model.engine.engine import Engine
from tests.model.constrain.hostile import ENDURED, REFUSED, params
from tests.model.helpers import random_ids
from tests.model.tokenizer_fixture import END_OF_TURN, EOS

from .conftest import MakeEngine

WORD = {"type": "string", "pattern": "^[a-z]{1,5}$"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "record": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["cat", "dog", 3, None, "größer 😀"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"const": [1, {}]}},
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": WORD, "minItems": 2, "maxItems": 3},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"enum": ["x"]}, {"type": "null"}],
        "items": False,
        "minItems": 3,
    },
    "either": {"anyOf": [{"type": "integer", "minimum": 10, "maximum": 12}, WORD]},
    "both": {
        "allOf": [
            {"type": "object", "properties": {"p": {"type": "boolean"}}, "required": ["p"]},
            {"type": "object", "properties": {"q": {"type": "null"}}, "required": ["q"]},
        ],
        "properties": {"p": True, "q": True},
        "additionalProperties": False,
    },
    "number": {"type": "number", "minimum": -1.5, "maximum": 2.5, "multipleOf": 0.25},
    "escaped": {"enum": ['a"b\\c/d\n\t\u0001', "\u2028\x7f", "é"]},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "boolean"},
                    "c": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
                },
                "required": ["v", "c"],
                "additionalProperties": False,
            }
        },
    },
    "map": {
        "type": "object",
        "patternProperties": {"^[xy]$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
}
PATTERNS = [
    r"[A-Z]{2}-[0-9]{4}",
    r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
    r"^(red|green|blue)?[ ,;]{1,3}end$",
    r"[äöüß€😀]{2,6}",
    r"a?b*c{2,3}|x+",
    r"[^a-z]{1,8}",
]
CHOICES = ("libs", "libdevel", "net\nmail", "größer", 'a "b"', "<end_of_turn>")
PROMPT = random_ids(9, vocab=1500, seed=3)


@pytest.fixture
def engine(make: MakeEngine) -> Engine:
    return make("text-lm", max_batch_tokens=64)


def answers(engine: Engine, asked: list[dict[str, Any]], **others: Any) -> list[GenerationOutput]:
    settings = {"max_tokens": 150, "temperature": 1.0, **others}
    return engine.generate(
        [PROMPT] * len(asked), [SamplingParams(**{**settings, **one}) for one in asked]
    )


def check_json(text: str, schema: dict[str, Any]) -> None:
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_are_valid_json_of_their_schema(engine: Engine, name: str) -> None:
    schema = SCHEMAS[name]
    asked = [{"json_schema": schema, "seed": seed} for seed in range(12)]
    results = answers(engine, asked)
    ended = [result for result in results if result.finish_reason == "stop"]
    assert len(ended) >= 4
    for result in ended:
        check_json(result.text, schema)
        assert result.token_ids[-1] in {EOS, END_OF_TURN}
    assert len({result.text for result in results}) > 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_answers_match_their_expression(engine: Engine, pattern: str) -> None:
    results = answers(engine, [{"regex": pattern, "seed": seed} for seed in range(8)])
    for result in results:
        assert result.finish_reason == "stop"
        assert re.fullmatch(pattern, result.text)


def test_answers_are_one_of_the_choices(engine: Engine) -> None:
    results = answers(engine, [{"choice": CHOICES, "seed": seed} for seed in range(40)])
    assert {result.finish_reason for result in results} == {"stop"}
    assert {result.text for result in results} == set(CHOICES)
    assert not any({EOS, END_OF_TURN} & set(result.token_ids[:-1]) for result in results)


def test_any_object_is_an_object(engine: Engine) -> None:
    asked = [{"json_object": True, "seed": seed} for seed in range(12)]
    results = answers(engine, asked, max_tokens=60)
    for result in results:
        assert result.text.startswith("{")
        if result.finish_reason == "stop":
            assert isinstance(json.loads(result.text), dict)


def test_a_limit_cuts_a_valid_text(engine: Engine) -> None:
    (result,) = answers(engine, [{"regex": "[ab]{4000}"}], max_tokens=7)
    assert (result.finish_reason, len(result.token_ids)) == ("length", 7)
    assert re.fullmatch("[ab]+", result.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_allows_everything_changes_nothing(make: MakeEngine, temperature: float) -> None:
    settings = {"temperature": temperature, "max_tokens": 20, "logprobs": 2}
    # What is not UTF-8, and control tokens, no text can be.
    tokenizer = make("text-lm").tokenizer
    assert tokenizer is not None
    unfit = {*tokenizer.control_ids, *range(217, 217 + 256)} - {EOS}
    settings["logit_bias"] = dict.fromkeys(unfit, -100.0)
    asked = [{"seed": seed} for seed in range(6)]
    free = answers(make("text-lm"), asked, **settings)
    bound = answers(make("text-lm"), [{"regex": r"[\s\S]*", **one} for one in asked], **settings)
    for one, other in zip(free, bound, strict=True):
        assert one.completions == other.completions


def tokens_of(results: list[GenerationOutput]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in result.completions] for result in results]


def test_others_in_the_batch_do_not_notice(make: MakeEngine) -> None:
    engine = make("text-lm", prefix_caching=False)
    free = [
        {"seed": 1},
        {"temperature": 0.0},
        {"seed": 2, "top_k": 20, "logprobs": 1},
        {"seed": 3, "repetition_penalty": 1.2, "min_tokens": 5},
    ]
    bound = [{"seed": n, "json_schema": SCHEMAS["record"]} for n in range(3)]
    alone = answers(engine, free, max_tokens=25)
    mixed = answers(engine, [*bound[:2], *free, *bound[2:]], max_tokens=25)
    assert [one.completions for one in mixed[2:6]] == [one.completions for one in alone]
    only = answers(engine, bound, max_tokens=25)
    assert tokens_of(only) == tokens_of([*mixed[:2], mixed[6]])


def test_several_answers_and_labels_share_a_prompt(engine: Engine) -> None:
    drawn = SamplingParams(
        max_tokens=80, temperature=1.0, seed=5, n=6, json_schema=SCHEMAS["record"], logprobs=1
    )
    labels = ScoreLabels(("a", "b"), ((300,), (301, 302)))
    engine.add_request(PROMPT, [Generate(drawn), labels], request_id="r")
    outputs = [u.output for _ in range(200) if engine.has_work for u in engine.step()]
    (output,) = [output for output in outputs if output is not None]
    generated = output.results[0]
    assert isinstance(generated, GenerationOutput)
    texts = [one.text for one in generated.completions if one.finish_reason == "stop"]
    assert len(set(texts)) >= 3
    for text in texts:
        check_json(text, SCHEMAS["record"])
    again = engine.generate([PROMPT], drawn)
    assert tokens_of(again) == tokens_of([generated])


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_bias": {END_OF_TURN: 100.0, EOS: 100.0, 5: 100.0}},
        {"top_k": 1},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"min_p": 0.5, "top_k": 3, "top_p": 0.5},
        {"temperature": 100.0},
        {"temperature": 1e-5},
        {"temperature": 0.0, "repetition_penalty": 10.0, "presence_penalty": 2.0},
        {"min_tokens": 100},
        {"stop_token_ids": [EOS, 5]},
        {"logit_bias": dict.fromkeys(range(2048), -100.0)},
    ],
)
def test_no_setting_leads_out_of_the_constraint(engine: Engine, settings: dict[str, Any]) -> None:
    asked = [{"regex": r"[a-f]{6}", "seed": seed, **settings} for seed in range(4)]
    asked += [{"json_schema": SCHEMAS["either"], "seed": seed, **settings} for seed in range(4)]
    results = answers(engine, asked)
    assert {result.finish_reason for result in results} == {"stop"}
    for result in results[:4]:
        assert re.fullmatch(r"[a-f]{6}", result.text)
    for result in results[4:]:
        check_json(result.text, SCHEMAS["either"])


def test_log_probabilities_are_the_models_own(engine: Engine) -> None:
    (bound,) = answers(engine, [{"choice": ["~~~"], "logprobs": 2}])
    assert bound.logprobs is not None
    written = engine.logprobs([[*PROMPT, *bound.token_ids]])[0].logprobs[len(PROMPT) :]
    for token, own in zip(bound.logprobs, written, strict=True):
        assert token.logprob == pytest.approx(own, abs=1e-4)
        assert token.token_id not in {best for best, _ in token.top}


def test_a_stop_string_ends_a_valid_beginning(engine: Engine) -> None:
    (result,) = answers(engine, [{"choice": ["one two three"], "stop": [" three"]}])
    assert (result.text, result.finish_reason) == ("one two", "stop")


def test_steps_that_overlap_give_the_same(make: MakeEngine) -> None:
    asked: list[dict[str, Any]] = [{"seed": n, "json_schema": SCHEMAS["record"]} for n in range(3)]
    asked += [{"seed": n, "regex": PATTERNS[0], "n": 2} for n in range(2)]
    asked += [{"seed": n, "min_tokens": 20, "max_tokens": 40} for n in range(4)]
    asked += [{"choice": CHOICES, "temperature": 0.0}]
    plain = answers(make("text-lm"), asked)
    overlapped = answers(make("text-lm", overlap=True), asked)
    assert tokens_of(plain) == tokens_of(overlapped)


def test_long_prompts_and_few_places(make: MakeEngine) -> None:
    engine = make("text-lm", max_batch_tokens=16, max_sequences=2)
    prompts = [random_ids(n, vocab=1500, seed=n) for n in (40, 3, 33, 40)]
    asked = SamplingParams(choice=CHOICES, temperature=1.0, seed=1)
    small = engine.generate(prompts, asked)
    large = make("text-lm", max_batch_tokens=256).generate(prompts, asked)
    assert [one.text for one in small] == [one.text for one in large]
    assert {one.text for one in small} <= set(CHOICES)


@pytest.mark.parametrize("name", ENDURED)
def test_what_is_large_is_written_in_bounded_steps(engine: Engine, name: str) -> None:
    begun = time.monotonic()
    try:
        engine.generate([PROMPT], params(ENDURED[name], max_tokens=20, temperature=1.0))
    except ConstraintError as error:
        assert "the answer can't go on" in str(error)  # noqa: PT017 - it may, and need not
    assert time.monotonic() - begun < 60


def test_a_refused_constraint_stops_nobody(engine: Engine) -> None:
    engine.add_request(PROMPT, [Generate(SamplingParams(max_tokens=8))], request_id="free")
    for name in ("nothing but itself", "a product of alternatives"):
        engine.add_request(PROMPT, [Generate(params(REFUSED[name]))], request_id=name)
    engine.add_request(PROMPT, [Generate(SamplingParams(choice=["a"]))], request_id="bound")
    ends: list[str] = []
    errors: dict[str, str] = {}
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                assert isinstance(update.error, ConstraintError)
                errors[update.request_id] = str(update.error)
            elif update.output is not None:
                ends.append(update.request_id)
    assert ends[0] == "free"
    assert set(ends) == {"free", "bound"}
    assert errors == {
        "nothing but itself": "json_schema: no text can meet it",
        "a product of alternatives": "json_schema: schema too large",
    }
    with pytest.raises(ConstraintError, match="no text can meet it"):  # known by now
        engine.add_request(PROMPT, [Generate(params(REFUSED["nothing but itself"]))])
    assert engine.generate([PROMPT], SamplingParams(max_tokens=2))


def test_a_request_can_be_given_up_while_it_is_compiled(engine: Engine) -> None:
    name = engine.add_request(PROMPT, [Generate(SamplingParams(regex="given up"))])
    assert engine.waiting == 1
    assert engine.abort(name)
    assert not engine.has_work
    assert not engine.abort(name)


def test_a_dead_end_is_an_error_of_its_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.constrain import limits  # noqa: PLC0415 - read when a compiler is first used

    monkeypatch.setitem(limits.PARSER_LIMITS, "max_lexer_states", 300)
    stuck = Generate(SamplingParams(regex=r"(\w{3}\d){40}x", max_tokens=100, temperature=1.0))
    free = Generate(SamplingParams(max_tokens=30, temperature=1.0, seed=1))
    engine.add_request(PROMPT, [stuck], request_id="stuck")
    engine.add_request(PROMPT, [free], request_id="free")
    updates = [update for _ in range(500) if engine.has_work for update in engine.step()]
    assert {update.request_id for update in updates} == {"stuck", "free"}
    (error,) = [update.error for update in updates if update.error is not None]
    assert "regex: the answer can't go on" in str(error)
    assert "\n" not in str(error)
    assert not engine.has_work


def test_all_can_be_prepared_before_the_first_request(make: MakeEngine) -> None:
    engine = make("text-lm")
    engine.prepare_constraints()
    assert answers(engine, [{"choice": ["a"]}])[0].text == "a"
    make("lm").prepare_constraints()


def test_it_takes_a_tokenizer(make: MakeEngine) -> None:
    with pytest.raises(TaskError, match="regex needs a tokenizer"):
        make("lm").generate([[5, 6]], SamplingParams(regex="a"))


@pytest.mark.slow
def test_ranks_agree(make: MakeEngine) -> None:
    asked: list[dict[str, Any]] = [{"seed": n, "json_schema": SCHEMAS["record"]} for n in range(3)]
    asked += [{"seed": 1, "regex": PATTERNS[0], "top_k": 5}, {"seed": 2, "max_tokens": 9}]
    asked += [{"choice": CHOICES, "temperature": 0.0}]
    one = answers(make("text-lm"), asked)
    two = answers(make("text-lm", tensor_parallel=2), asked)
    assert tokens_of(one) == tokens_of(two)
