import functools
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import InputError
from pipelines.inputs import InputFile, read_footers
from pipelines.listing import find_files
from pipelines.plan import Unit
from pipelines.reader import UnitRows, read_units

from .data import write
from .test_inputs import with_rows_in_footer

ROWS = 3000


def file_at(path: Path) -> InputFile:
    (footer,) = read_footers(find_files([str(path)]), None)
    return footer.file


def units(first: int, last: int, size: int) -> list[Unit]:
    return [Unit(0, at, min(at + size, last)) for at in range(first, last, size)]


@functools.cache
def numbered() -> InputFile:
    """Rows that know their number, in uneven row groups, some larger than a batch."""
    path = Path(tempfile.mkdtemp()) / "numbered.parquet"
    table = pa.table({"text": [f"row {i}" for i in range(ROWS)], "id": range(ROWS)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, end in ((0, 7), (7, 2100), (2100, 2101), (2101, ROWS)):
            writer.write_table(table.slice(start, end - start), row_group_size=ROWS)
    return file_at(path)


@given(st.integers(0, ROWS - 1), st.integers(1, ROWS), st.integers(1, 1500))
def test_units_hold_exactly_their_rows(first: int, length: int, size: int) -> None:
    wanted = units(first, min(ROWS, first + length), size)
    got = list(read_units(numbered(), wanted, ["id"]))
    assert [rows.unit for rows in got] == wanted
    for rows in got:
        assert rows.table["id"].to_pylist() == list(range(rows.unit.first, rows.unit.last))
        assert rows.table.column_names == ["id"]
        assert not rows.faults


def test_all_columns_are_read_when_none_is_named() -> None:
    (rows,) = read_units(numbered(), [Unit(0, 2, 4)], None)
    assert rows.table.to_pydict() == {"text": ["row 2", "row 3"], "id": [2, 3]}


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a"] * 9})
    file = file_at(path)
    write(path, {"text": ["b"] * 10})
    with pytest.raises(InputError, match="changed since the job was planned"):
        list(read_units(file, [Unit(0, 0, 9)], None))


def test_rows_of_a_damaged_page_say_so_and_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{i:08d}" for i in range(3000)]})
    options = {"compression": "zstd", "use_dictionary": False}
    write(path, table, row_group_size=1000, **options)
    data = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(1).column(0)
    start = middle.data_page_offset + 40
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    file = file_at(path)
    got = list(read_units(file, units(0, 3000, 300), None))
    good = [i for rows in got for i in _good(rows)]
    assert good == [*range(1000), *range(2000, 3000)]
    faults = {text for rows in got for text in rows.faults.values()}
    assert len(faults) == 1
    assert faults.pop().startswith("row group 1 can't be read: ")
    # Whoever asks for other units gets the same.
    again = list(read_units(file, units(900, 2100, 7), None))
    assert [i for rows in again for i in _good(rows)] == [*range(900, 1000), *range(2000, 2100)]


def _good(rows: UnitRows) -> list[int]:
    values = rows.table["text"].to_pylist()
    assert len(values) == rows.unit.rows
    assert all(values[row] is None for row in rows.faults)
    return [int(value) for row, value in enumerate(values) if row not in rows.faults]


def test_rows_that_the_footer_made_up_say_so(tmp_path: Path) -> None:
    path = tmp_path / "lie.parquet"
    path.write_bytes(with_rows_in_footer(1000, 1100, whole_file=False))
    (rows,) = read_units(file_at(path), [Unit(0, 950, 1100)], None)
    assert sorted(rows.faults) == list(range(50, 150))
    assert rows.faults[50] == "row group 0 holds 1000 rows, its footer says 1100"
    assert rows.table["text"].to_pylist()[:51] == [*(f"row {i}" for i in range(950, 1000)), None]


def test_an_outage_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(OSError, match="Input/output"):
        list(read_units(numbered(), [Unit(0, 0, 5)], None))
