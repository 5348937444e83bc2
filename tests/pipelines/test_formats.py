"""Parquet as people write it: every compression and spelling is read as the same thing."""

import json
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import source_file
from pipelines.inputs import InputFile, read_footers
from pipelines.listing import find_files
from pipelines.plan import Unit
from pipelines.prompts import PromptSource
from pipelines.reader import read_units
from tests.conftest import Bucket

from .data import write

TEXTS = ["eins", "zwei", "eins", "vier é"]
# The end of a file is read twice: to see whether it changed, and by Arrow.
FOOTERS = 2 * 64 * 1024
MESSAGES = [[{"role": "user", "content": text}] for text in TEXTS]


def file_at(path: Path | str, columns: list[str] | None = None) -> InputFile:
    (footer,) = read_footers(find_files([str(path)]), columns)
    return footer.file


def prompts(path: Path, source: PromptSource) -> list[Any]:
    file = file_at(path)
    (rows,) = read_units(file, [Unit(0, 0, file.rows)], source.columns)
    assert not rows.faults
    return list(source.prompts(rows.table))


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_compressions(tmp_path: Path, compression: str, version: str) -> None:
    options = {"compression": compression, "data_page_version": version}
    path = write(tmp_path / "a.parquet", {"text": TEXTS}, row_group_size=3, **options)
    assert prompts(path, PromptSource(text_column="text")) == TEXTS


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_spellings_of_text(tmp_path: Path, kind: pa.DataType, *, stored: bool) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array(TEXTS).cast(kind)}, store_schema=stored)
    assert prompts(path, PromptSource(text_column="text")) == TEXTS


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("name", pa.string())])


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "column",
    [
        pa.array(MESSAGES),
        pa.array(MESSAGES, pa.large_list(MESSAGE)),
        pa.array(MESSAGES, pa.list_(MESSAGE, 1)),
        pa.array([json.dumps(messages) for messages in MESSAGES]),
        pa.array([json.dumps(messages) for messages in MESSAGES], pa.large_string()),
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_spellings_of_messages(tmp_path: Path, column: pa.Array, *, stored: bool) -> None:
    path = write(tmp_path / "a.parquet", {"m": column}, store_schema=stored)
    found = prompts(path, PromptSource(messages_column="m"))
    assert [[(m["role"], m["content"]) for m in messages] for messages in found] == [
        [(m["role"], m["content"]) for m in messages] for messages in MESSAGES
    ]


class _Counted:
    """A file that counts what is read of it."""

    def __init__(self, file: Any, counts: list[int]) -> None:
        self._file = file
        self._counts = counts

    def read(self, *arguments: Any) -> bytes:
        data: bytes = self._file.read(*arguments)
        self._counts.append(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of an input file."""
    taken: list[int] = []
    plain = source_file.open_input

    def counted(*arguments: Any, **options: Any) -> Any:
        return _Counted(plain(*arguments, **options), taken)

    for module in ("inputs", "reader"):
        monkeypatch.setattr(f"pipelines.{module}.open_input", counted)
    return taken


def wide(path: Path) -> Path:
    """A megabyte of text that nobody asks for, beside some that is, in ten row groups."""
    rows = 10_000
    table = pa.table(
        {
            "text": [f"{i:08d}" for i in range(rows)],
            "ballast": [f"{i:0100d}" for i in range(rows)],
            "id": range(rows),
        }
    )
    return write(path, table, row_group_size=1000, compression="none", use_dictionary=False)


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path, counts: list[int]) -> None:
    path = wide(tmp_path / "a.parquet")
    size = path.stat().st_size
    assert size > 1_000_000
    file = file_at(path, ["text", "id"])
    assert sum(counts) < 200_000  # footers, and some first pages
    counts.clear()
    (rows,) = read_units(file, [Unit(0, 0, file.rows)], ["text", "id"])
    assert rows.table.num_rows == 10_000
    needed = 10_000 * (8 + 4 + 8)
    assert needed < sum(counts) < 1.3 * needed + FOOTERS


def test_only_the_row_groups_that_are_needed_are_read(tmp_path: Path, counts: list[int]) -> None:
    file = file_at(wide(tmp_path / "a.parquet"), ["id"])
    counts.clear()
    (rows,) = read_units(file, [Unit(0, 4500, 4600)], ["id"])
    assert rows.table["id"].to_pylist() == list(range(4500, 4600))
    assert sum(counts) < 8 * 1000 * 1.3 + FOOTERS


def test_projection_holds_on_s3(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.fs.put(str(wide(tmp_path / "a.parquet")), s3.url("a.parquet"))
    file = file_at(s3.url("a.parquet"), ["id"])
    fetched: list[int] = []
    fetch = type(s3.fs.open(s3.url("a.parquet")))._fetch_range

    def counted(self: Any, start: int, end: int) -> Any:
        fetched.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(type(s3.fs.open(s3.url("a.parquet"))), "_fetch_range", counted)
    (rows,) = read_units(file, [Unit(0, 4500, 4600)], ["id"])
    assert rows.table["id"].to_pylist() == list(range(4500, 4600))
    assert 0 < sum(fetched) < 8 * 1000 * 1.3 + FOOTERS


def test_checksums_of_pages_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{i:08d}" for i in range(100)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    write(path, table, row_group_size=50, **options)
    data = bytearray(path.read_bytes())
    at = data.index(b"00000012")
    data[at] = ord("7")
    path.write_bytes(data)
    file = file_at(path)
    (rows,) = read_units(file, [Unit(0, 0, 100)], None)
    assert sorted(rows.faults) == list(range(50))
    assert rows.table["text"].to_pylist()[50:] == [f"{i:08d}" for i in range(50, 100)]
    assert pq.ParquetFile(path).read()["text"].to_pylist()[12] == "70000012"
