"""Lines of any bytes: where they are, and what is in them."""

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import PromptError
from pipelines import InputError, jsonl
from pipelines.inputs import Footer, InputFile, read_footers, survey
from pipelines.jsonl import index_lines, parse_line, split_lines
from pipelines.listing import find_files
from pipelines.plan import Unit
from pipelines.reader import UnitRows, read_units

from .data import write


def footers(*patterns: Path) -> list[Footer]:
    return read_footers(find_files([str(pattern) for pattern in patterns]), None)


def lines_file(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(text, "zstd", asbytes=True))
    else:
        path.write_bytes(text)
    return path


def read(file: InputFile, first: int, last: int, *columns: str) -> UnitRows:
    (rows,) = read_units(file, [Unit(0, first, last)], columns or None)
    return rows


def reference_lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


@given(data=st.text("a\n", max_size=300), chunk=st.integers(1, 50), stride=st.integers(1, 8))
def test_the_index_says_where_lines_begin(data: str, chunk: int, stride: int) -> None:
    raw = data.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "CHUNK_BYTES", chunk)
        patch.setattr(jsonl, "FIRST_STRIDE", stride)
        patch.setattr(jsonl, "MAX_OFFSETS", 5)
        index = index_lines(io.BytesIO(raw))
    lines = reference_lines(raw)
    assert index.lines == len(lines)
    assert len(index.offsets) <= 5
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    assert list(index.offsets) == starts[:: index.stride]


@given(data=st.text("ab\n", max_size=200), chunk=st.integers(1, 30), most=st.integers(1, 20))
def test_lines_are_cut_the_same_however_they_are_read(data: str, chunk: int, most: int) -> None:
    raw = data.encode()
    pieces = [raw[at : at + chunk] for at in range(0, len(raw), chunk)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "MAX_LINE_BYTES", most)
        found = list(split_lines(pieces))
    assert found == [line if len(line) <= most else len(line) for line in reference_lines(raw)]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "jsonl.zst"])
def test_rows_are_lines(tmp_path: Path, suffix: str) -> None:
    path = lines_file(
        tmp_path / f"a.{suffix}", [{"text": f"zeile {i} é", "n": i} for i in range(999)]
    )
    (footer,) = footers(path)
    assert footer.schema == pa.schema([("text", pa.string()), ("n", pa.int64())])
    assert (footer.file.rows, footer.file.format) == (999, "jsonl")
    units = [Unit(0, at, min(at + 70, 999)) for at in range(280, 999, 70)]
    for rows in read_units(footer.file, units, ["n"]):
        assert rows.table.to_pydict() == {"n": list(range(rows.unit.first, rows.unit.last))}
        assert not rows.faults


def test_only_the_bytes_around_a_unit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines_file(tmp_path / "a.jsonl", [{"text": "x" * 1000, "n": i} for i in range(5000)])
    (footer,) = footers(path)
    taken: list[int] = []
    whole = jsonl.chunks

    def counted(stream: Any, size: int | None = None) -> Any:
        for chunk in whole(stream, size):
            taken.append(len(chunk))
            yield chunk

    monkeypatch.setattr("pipelines.lines_file.chunks", counted)
    assert read(footer.file, 2560, 2816, "n").table["n"].to_pylist() == list(range(2560, 2816))
    assert sum(taken) < 300_000 < path.stat().st_size / 10


def test_columns_come_from_the_first_lines_and_types_are_checked(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"text": "a", "n": 1, "x": 1, "ok": True, "any": 1, "tags": ["ü"], "later": None},
        {"text": "b", "n": None, "x": 0.5, "any": "s"},
        *({"text": "c"} for _ in range(1000)),
        {"text": 7, "n": 2},
        {"text": "d", "n": "2"},
        {"text": "d", "n": 2.5},
        {"text": "d", "n": 2**63},
        {"text": "d", "n": True},
        {"text": "\ud800"},
        {"text": "e", "later": "text", "unknown": 1},
        {"text": "f", "later": 1},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (footer,) = footers(path)
    text, integer, number = pa.string(), pa.int64(), pa.float64()
    assert dict(zip(footer.schema.names, footer.schema.types, strict=True)) == {
        "text": text, "n": integer, "x": number, "ok": pa.bool_(), "any": text, "tags": text,
        "later": text,
    }  # fmt: skip
    head = read(footer.file, 0, 2).table.to_pylist()
    assert head == [
        {"text": "a", "n": 1, "x": 1.0, "ok": True, "any": "1", "tags": '["ü"]', "later": None},
        {"text": "b", "n": None, "x": 0.5, "ok": None, "any": '"s"', "tags": None, "later": None},
    ]
    tail = read(footer.file, 1002, 1010)
    assert tail.faults == {
        0: "column 'text' is an integer here, and text in the first lines; null here",
        1: "column 'n' is text here, and an integer in the first lines; null here",
        2: "column 'n' is a number here, and an integer in the first lines; null here",
        3: "column 'n' holds an integer of more than 64 bits; null here",
        4: "column 'n' is a boolean here, and an integer in the first lines; null here",
        5: "column 'text' holds a lone surrogate at position 0, half a character",
        7: "column 'later' is an integer here, and text in the first lines; null here",
    }
    assert tail.table["n"].to_pylist() == [2, None, None, None, None, None, None, None]
    assert tail.table["later"].to_pylist()[6] == "text"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "the line is blank"),
        (b" \r", "the line is blank"),
        (b"[1]", "holds no JSON object"),
        (b"{", "is not valid JSON"),
        (b'{"a": 1} {', "is not valid JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "too large for a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "is not valid JSON"),
        (b'{"a": "\xff"}', "not valid UTF-8 at byte 7"),
        ("{}".encode("utf-16"), "not valid UTF-8"),
        (65 << 20, "has 68157440 bytes, and at most 67108864 are read"),
    ],
)
def test_a_line_without_an_object_says_why(line: bytes | int, message: str) -> None:
    with pytest.raises(PromptError, match="the line") as error:
        parse_line(line)
    assert message in str(error.value)


def test_bad_lines_are_rows_with_a_reason_and_keep_the_others_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n{"text": "b"}\nnonsense\n{"text": "c"}')
    (footer,) = footers(path)
    rows = read(footer.file, 0, 5)
    assert rows.table["text"].to_pylist() == ["a", None, "b", None, "c"]
    assert rows.faults[1] == "the line is blank"
    assert "is not valid JSON" in rows.faults[3]


def test_a_line_without_end_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", 64)
    path = lines_file(tmp_path / "a.jsonl", [{"t": "a"}, {"t": "x" * 5000}, {"t": "b"}])
    (footer,) = footers(path)
    rows = read(footer.file, 0, 3)
    assert rows.table["t"].to_pylist() == ["a", None, "b"]
    assert rows.faults == {1: "the line has 5009 bytes, and at most 1000 are read"}


def test_files_agree_on_their_columns(tmp_path: Path) -> None:
    lines_file(tmp_path / "a.jsonl", [{"text": "a", "n": 1, "x": None}])
    lines_file(tmp_path / "b.jsonl", [{"n": 0.5, "text": "b", "x": True}])
    one, other = footers(tmp_path)
    assert one.schema == other.schema
    assert one.schema.field("n").type == pa.float64()
    assert read(one.file, 0, 1).table.to_pylist() == [{"text": "a", "n": 1.0, "x": None}]
    assert read(other.file, 0, 1).table.to_pylist() == [{"text": "b", "n": 0.5, "x": True}]


def test_a_changed_file_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.jsonl", [{"text": "a"}] * 5)
    (footer,) = footers(path)
    lines_file(path, [{"text": "b"}] * 4)
    with pytest.raises(InputError, match="changed since the job was planned"):
        read(footer.file, 0, 5)


def test_the_index_of_an_unchanged_file_is_taken_from_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines_file(tmp_path / "a.jsonl", [{"text": "a"}] * 300)
    (before,) = footers(path)
    located = find_files([str(path)])
    monkeypatch.setattr("pipelines.lines_file.index_lines", lambda _: pytest.fail("read again"))
    (again,) = survey(located, None, known=[before.file]).footers
    assert again == before
    lines_file(path, [{"text": "bc"}] * 300)
    with pytest.raises(pytest.fail.Exception):
        survey(located, None, known=[before.file])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "is empty (0 bytes)"),
        ("a.jsonl", b"PAR1\n\x00\x00", "holds no JSON object in its first 1000 lines"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "can't be read"),
        ("a.jsonl.gz", b'{"a": 1}\n', "can't be read"),
        ("a.jsonl.zst", b'{"a": 1}\n', "can't be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        footers(tmp_path / name)
    assert message in str(error.value)


def test_a_folder_of_both_kinds_is_refused_and_a_glob_chooses(tmp_path: Path) -> None:
    lines_file(tmp_path / "x" / "a.jsonl", [{"text": "a"}])
    (tmp_path / "x" / "dataset_info.json").write_text("{}")
    assert [footer.file.name for footer in footers(tmp_path)] == ["a.jsonl"]
    write(tmp_path / "b.parquet", {"text": ["b"]})
    with pytest.raises(InputError, match="holds both Parquet files and JSON lines"):
        footers(tmp_path)
    assert [f.file.name for f in footers(tmp_path / "**" / "*.jsonl")] == ["a.jsonl"]


def test_any_bytes_are_rows_or_a_refusal(tmp_path: Path) -> None:
    source = random.Random(5)
    good = b"".join(json.dumps({"text": f"row {i}", "n": i}).encode() + b"\n" for i in range(40))
    for number in range(200):
        data = bytearray(good)
        for _ in range(source.randint(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(data)
        (footer,) = footers(path)
        rows = read(footer.file, 0, footer.file.rows)
        assert rows.table.num_rows == len(reference_lines(bytes(data)))
