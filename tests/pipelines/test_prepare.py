import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from model.tokenizer import GemmaTokenizer, load_tokenizer
from pipelines import JobSpec
from pipelines.packet import KEPT, PROMPTS, file_name_of, unit_of, unpacked
from pipelines.plan import Unit
from pipelines.prepare import Preparer
from pipelines.prompts import PromptSource
from pipelines.reader import UnitRows
from pipelines.tokenizer_files import TokenizerFiles

from .data import CAUSAL_LM, invalid_text, spec

TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@pytest.fixture(scope="module")
def tokenizer() -> GemmaTokenizer:
    loaded = load_tokenizer(CAUSAL_LM)
    assert loaded is not None
    return loaded


def preparer(job: JobSpec, *, kept: pa.Schema | None = None, **changes: Any) -> Preparer:
    made = Preparer(
        source=PromptSource.of(job),
        kept=kept if kept is not None else pa.schema([]),
        files=TokenizerFiles.of(CAUSAL_LM),
        chat=job.messages is not None,
        system=job.system,
        with_text=False,
        max_len=100,
        reserve=4,
    )
    return replace(made, **changes)


def prepared(job: JobSpec, columns: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    table = pa.table(columns)
    rows = UnitRows(Unit(0, 0, table.num_rows), table, {})
    packet = preparer(job, **changes).packet(rows, "a.parquet")
    cells: list[dict[str, Any]] = unpacked(packet, PROMPTS).to_pylist()
    return cells


def errors(job: JobSpec, columns: dict[str, Any], **changes: Any) -> list[str | None]:
    return [cells["error"] for cells in prepared(job, columns, **changes)]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_prompts_are_rendered_and_tokenized(kind: pa.DataType, tokenizer: GemmaTokenizer) -> None:
    columns = {"text": pa.array(["hé", "b"]).cast(kind), "n": pa.array([7, -1], pa.int16())}
    raw = prepared(spec(prompt="{text}: {n}"), columns)
    assert [cells["prompt_ids"] for cells in raw] == [
        tokenizer.encode_text("hé: 7"),
        tokenizer.encode_text("b: -1"),
    ]
    assert [cells["prompt_tokens"] for cells in raw] == [len(c["prompt_ids"]) for c in raw]
    chat = prepared(spec(prompt=None, prompt_column="text"), columns, chat=True)
    assert chat[0]["prompt_ids"] == tokenizer.encode_messages([{"role": "user", "content": "hé"}])


def test_messages_in_both_forms_give_the_same_prompt(tokenizer: GemmaTokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    job = spec(prompt=None, messages="m")
    structs = prepared(job, {"m": [messages]})
    strings = prepared(job, {"m": [json.dumps(messages)]})
    assert structs == strings
    assert structs[0]["prompt_ids"] == tokenizer.encode_messages(messages)


def test_errors_have_a_class() -> None:
    found = prepared(spec(), {"text": ["a", None]}) + prepared(
        spec(prompt=None, messages="m"), {"m": [[{"role": "nobody", "content": "u"}]]}
    )
    assert [cells["error_class"] for cells in found] == [None, "PromptError", "ChatError"]


def test_system_messages_are_refused_or_folded() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    refused = errors(spec(prompt=None, messages="m"), {"m": [messages]})
    assert "System role not supported" in str(refused[0])
    assert errors(spec(prompt=None, messages="m", system="fold"), {"m": [messages]}) == [None]


def test_each_bad_text_says_what_is_wrong_with_it() -> None:
    values = invalid_text(b"fine", b"\xff", None, b"", b" \n", b"a\0b", b"x" * 13_000, b"ab " * 90)
    found = errors(spec(prompt=None, prompt_column="text"), {"text": values})
    assert found == [
        None,
        "column 'text' is not valid UTF-8 at byte 0",
        "column 'text' is null",
        "column 'text' is empty",
        "column 'text' is empty",
        "prompt holds a NUL character at position 1; remove it",
        "the prompt has 13000 characters, which can't fit into 100 tokens",
        found[7],
    ]
    assert "fit of 100, as 4 are kept for the answer: shorten it" in str(found[7])


def test_one_bad_column_of_a_template_is_enough() -> None:
    columns = {"a": ["x", None, "x"], "b": invalid_text(b"y", b"y", b"\x80")}
    assert errors(spec(prompt="{a}{b}"), columns) == [
        None,
        "column 'a' is null",
        "column 'b' is not valid UTF-8 at byte 0",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"role": "user"}', "holds no JSON list"),
        ("[]", "messages is empty"),
        ("[1]", "messages[0]"),
        ('[{"role": "tool", "content": "x"}]', "messages[0]"),
        ('[{"role": "user", "content": 3}]', "messages[0]"),
        ('[{"role": "user", "content": "\\ud800"}]', "lone surrogate"),
    ],
)
def test_bad_messages_say_what_is_wrong_with_them(value: str, message: str) -> None:
    (error,) = errors(spec(prompt=None, messages="m"), {"m": [value]})
    assert message in str(error)


def test_bad_lists_of_messages_say_what_is_wrong_with_them() -> None:
    content = invalid_text(b"fine", b"\xff", b"x")
    roles = pa.array(["user", "user", None])
    structs = pa.StructArray.from_arrays([roles, content], ["role", "content"])
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 3]), structs)
    column = pa.concat_arrays([column, pa.nulls(1, column.type)])
    found = errors(spec(prompt=None, messages="m"), {"m": column})
    assert found[0] is None
    assert found[1] == "column 'm' holds text that is not valid UTF-8"
    assert "messages[0]" in str(found[2])
    assert "messages is empty" in str(found[3])
    assert found[4] == "column 'm' is null"


def test_a_prompt_may_fill_what_the_answer_leaves(tokenizer: GemmaTokenizer) -> None:
    size = len(tokenizer.encode_text("abc"))
    job = spec(prompt=None, prompt_column="text")
    assert errors(job, {"text": ["abc"]}, max_len=size + 4) == [None]
    (cells,) = prepared(job, {"text": ["abc"]}, max_len=size + 3)
    assert cells["error"].startswith(f"the prompt has {size} tokens, and {size - 1} fit")
    assert cells["prompt_tokens"] == size
    assert cells["prompt_ids"] is None


def test_labels_follow_with_a_space_where_a_word_would() -> None:
    job = spec(prompt=None, prompt_column="text")
    assert [c["spaced"] for c in prepared(job, {"text": ["a:", "a:\n"]})] == [True, False]
    assert [c["spaced"] for c in prepared(job, {"text": ["a:"]}, chat=True)] == [False]
    question, half = {"role": "user", "content": "q"}, {"role": "assistant", "content": "It is"}
    columns = {"m": [json.dumps([question]), json.dumps([question, half])]}
    found = prepared(spec(prompt=None, messages="m"), columns)
    assert [c["spaced"] for c in found] == [False, True]


def test_tagging_gets_the_text_and_where_its_tokens_stand(tokenizer: GemmaTokenizer) -> None:
    (cells,) = prepared(spec(), {"text": ["héllo wörld"]}, with_text=True)
    ids, offsets = tokenizer.encode_with_offsets("héllo wörld")
    assert cells["text"] == "héllo wörld"
    assert cells["prompt_ids"] == ids
    assert cells["offsets"] == [place for pair in offsets for place in pair]


def test_kept_columns_are_set_aside_as_they_are() -> None:
    table = pa.table({"text": ["a"], "id": pa.array([7], pa.uint8()), "tags": [["x", None]]})
    kept = pa.schema([table.schema.field("tags"), table.schema.field("id")])
    rows = UnitRows(Unit(3, 40, 41), table, {})
    packet = preparer(spec(), kept=kept).packet(rows, "b.parquet")
    assert unpacked(packet, KEPT).equals(table.select(["tags", "id"]))
    assert (unit_of(packet), file_name_of(packet)) == (Unit(3, 40, 41), "b.parquet")


def test_kept_views_lose_invalid_text() -> None:
    raw = pa.array([b"ok", b"\xff", b"more than twelve bytes", None], pa.binary_view())
    bad = pa.Array.from_buffers(pa.string_view(), 4, raw.buffers(), raw.null_count)
    kept = pa.schema([pa.field("k", bad.type)])
    table = pa.table({"text": ["a"] * 4, "k": bad})
    packet = preparer(spec(), kept=kept).packet(UnitRows(Unit(0, 0, 4), table, {}), "a")
    assert unpacked(packet, KEPT)["k"].to_pylist() == ["ok", None, "more than twelve bytes", None]
    assert unpacked(packet, PROMPTS)["error"].is_null().to_pylist() == [True, False, True, True]


@pytest.mark.parametrize("nested", [False, True])
def test_kept_text_that_is_not_utf8_becomes_null_with_an_error(*, nested: bool) -> None:
    bad = invalid_text(b"ok", b"\xff", b"fine")
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), bad) if nested else bad
    table = pa.table({"text": ["a", "b", "c"], "k": column})
    kept = pa.schema([pa.field("k", column.type)])
    packet = preparer(spec(), kept=kept).packet(UnitRows(Unit(0, 0, 3), table, {}), "a")
    values = unpacked(packet, KEPT)["k"].to_pylist()
    assert values == ([["ok"], None, ["fine"]] if nested else ["ok", None, "fine"])
    found = unpacked(packet, PROMPTS)["error"].to_pylist()
    assert found == [None, "column 'k' is not valid UTF-8; null here", None]


def test_kept_dictionaries_lose_invalid_entries() -> None:
    bad = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 0], pa.int8()), invalid_text(b"a", b"\xff")
    )
    table = pa.table({"text": ["a", "b", "c"], "k": bad})
    kept = pa.schema([pa.field("k", bad.type)])
    packet = preparer(spec(), kept=kept).packet(UnitRows(Unit(0, 0, 3), table, {}), "a")
    result = unpacked(packet, KEPT)["k"]
    assert result.to_pylist() == ["a", None, "a"]
    assert result.type == bad.type


def test_rows_that_could_not_be_read_keep_their_reason() -> None:
    table = pa.table({"text": pa.array(["a", None])})
    rows = UnitRows(Unit(0, 0, 2), table, {1: "row group 0 can't be read"})
    packet = preparer(spec()).packet(rows, "a")
    found = unpacked(packet, PROMPTS)
    assert found["error"].to_pylist() == [None, "row group 0 can't be read"]
    assert found["error_class"].to_pylist() == [None, "InputError"]


def test_an_empty_unit_is_an_empty_packet() -> None:
    assert prepared(spec(), {"text": pa.array([], pa.string())}) == []
