"""Large values: found at any depth, and kept from those who would have to hold them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cells, parquet
from pipelines.cells import MAX_CELL_BYTES, byte_sizes, without_large_cells
from pipelines.inputs import InputFile, read_footers
from pipelines.listing import find_files
from pipelines.plan import Unit
from pipelines.reader import read_units

from .data import write

TEXTS = ["", None, "abc", "é" * 10]
SIZES = [0, 0, 3, 20]


def file_at(path: Path) -> InputFile:
    (footer,) = read_footers(find_files([str(path)]), None)
    return footer.file


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)
def test_sizes_of_text_in_all_its_types(kind: pa.DataType) -> None:
    array = pa.array(TEXTS).cast(kind)
    assert byte_sizes(array).tolist() == SIZES
    assert byte_sizes(array.slice(2)).tolist() == SIZES[2:]


@pytest.mark.parametrize(
    ("values", "kind", "sizes"),
    [
        ([["ab", "c"], None, [], ["é"]], pa.list_(pa.string()), [3, 0, 0, 2]),
        ([["ab", "c"], None, [], ["é"]], pa.large_list(pa.string()), [3, 0, 0, 2]),
        ([["ab", "c"], ["", "d"]], pa.list_(pa.string(), 2), [3, 1]),
        (
            [{"a": "xy", "b": 1}, {"a": None, "b": 2}],
            pa.struct([("a", pa.string()), ("b", pa.int8())]),
            [2, 0],
        ),
        ([[("k", "v1")], [], [("kk", None)]], pa.map_(pa.string(), pa.string()), [3, 0, 2]),
        ([[[{"role": "user", "content": "hi"}]], [[]]], None, [6, 0]),
        ([1, None], pa.int64(), [0, 0]),
        ([None, None], pa.null(), [0, 0]),
        ([], pa.string(), []),
    ],
)
def test_sizes_of_nested_values(values: list[Any], kind: pa.DataType, sizes: list[int]) -> None:
    array = pa.array(values, kind)
    assert byte_sizes(array).tolist() == sizes
    assert byte_sizes(array.slice(1)).tolist() == sizes[1:]


@pytest.mark.parametrize("nested", [False, True])
def test_large_values_are_null_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, *, nested: bool
) -> None:
    monkeypatch.setattr(cells, "MAX_CELL_BYTES", 10)
    values: list[Any] = ["a" * 10, "b" * 11, None, "c"]
    wanted: list[Any] = ["a" * 10, None, None, "c"]
    if nested:
        values, wanted = [[v] for v in values], [["a" * 10], None, [None], ["c"]]
    table = pa.table({"n": range(4), "v": pa.chunked_array([values[:1], values[1:]])})
    found, faults = without_large_cells(table)
    assert found["v"].to_pylist() == wanted
    assert found["n"].to_pylist() == [0, 1, 2, 3]
    assert found.schema == table.schema
    assert faults == {1: "column 'v' holds 11 bytes, and at most 10 are read; null here"}


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_nothing_holds_on_to_large_values(
    monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    monkeypatch.setattr(cells, "MAX_CELL_BYTES", 100)
    table = pa.table({"v": pa.array(["a", "x" * 100_000, "b", "a"]).cast(kind)})
    found, faults = without_large_cells(table)
    assert found["v"].to_pylist() == ["a", None, "b", "a"]
    assert found.schema == table.schema
    assert list(faults) == [1]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as stream:
        stream.write_table(found)
    assert sink.getvalue().size < 10_000


def test_a_huge_cell_costs_its_row_and_the_others_are_read(tmp_path: Path) -> None:
    texts = ["a", "x" * (MAX_CELL_BYTES + 1), "b"]
    file = file_at(write(tmp_path / "a.parquet", {"id": [1, 2, 3], "text": texts}))
    (rows,) = read_units(file, [Unit(0, 0, 3)], None)
    assert rows.table.to_pydict() == {"id": [1, 2, 3], "text": ["a", None, "b"]}
    assert list(rows.faults) == [1]
    assert rows.faults[1].startswith(f"column 'text' holds {MAX_CELL_BYTES + 1} bytes")


def test_batches_hold_fewer_rows_where_these_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"text": ["x" * 1000 for _ in range(200)]},
        use_dictionary=False,
        data_page_size=4000,
    )
    file = file_at(path)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 20_000)
    sizes: list[int] = []
    batches = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        for batch in batches(self, *args, **options):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    (rows,) = read_units(file, [Unit(0, 0, 200)], None)
    assert rows.table.num_rows == 200
    assert max(sizes) <= 20


def test_files_with_huge_rows_are_planned_without_reading_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PROBE_ROW_BYTES", 500)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    texts = ["x" * 1000 + str(i) for i in range(9)]
    assert file_at(write(tmp_path / "a.parquet", {"text": texts}, use_dictionary=False)).rows == 9
