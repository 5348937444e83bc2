import base64
import io
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

import pipelines.inputs
from pipelines import InputError
from pipelines.inputs import FOOTER_THREADS, Footer, read_footers, survey
from pipelines.listing import find_files, refuse_output_among_inputs
from pipelines.parquet import open_parquet
from tests.conftest import Bucket

from .data import write

ROWS = {"text": ["a", "b", "c"], "id": [1, 2, 3]}


def footers(*patterns: Path | str, columns: list[str] | None = None) -> list[Footer]:
    return read_footers(find_files([str(pattern) for pattern in patterns]), columns)


def names(*patterns: Path | str) -> list[str]:
    return [footer.file.name for footer in footers(*patterns)]


def test_a_file_a_folder_a_glob_and_a_list(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "sub/c.parquet", "sub/deep/d.parquet"):
        write(tmp_path / name, ROWS)
    assert names(tmp_path / "a.parquet") == ["a.parquet"]
    assert names(tmp_path / "*.parquet") == ["a.parquet", "b.parquet"]
    assert names(tmp_path / "**/*.parquet")[-1] == "sub/deep/d.parquet"
    everything = ["a.parquet", "b.parquet", "sub/c.parquet", "sub/deep/d.parquet"]
    assert names(tmp_path) == everything
    assert names(tmp_path / "sub", tmp_path / "a.parquet", tmp_path) == everything


def test_a_folder_skips_what_other_readers_skip(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ROWS)
    for name in ("_job/x.parquet", ".hidden.parquet", "_b.parquet", ".tmp/y.parquet"):
        write(tmp_path / name, ROWS)
    (tmp_path / "readme.txt").write_text("hello")
    assert names(tmp_path) == ["a.parquet"]


def test_s3_files(s3: Bucket, tmp_path: Path) -> None:
    for name in ("x/b.parquet", "x/sub/a.parquet", "x/_job/c.parquet"):
        s3.fs.put(str(write(tmp_path / name, ROWS)), s3.url(name))
    assert names(s3.url("x")) == ["b.parquet", "sub/a.parquet"]
    assert names(s3.url("x/*.parquet")) == ["b.parquet"]
    (footer,) = footers(s3.url("x/b.parquet"))
    assert footer.file.rows == 3
    assert footer.file.version.startswith("ETag ")
    assert footer.file.path == s3.url("x/b.parquet")
    assert open_parquet(footer.file.path).read().to_pydict() == ROWS


@pytest.mark.parametrize("pattern", ["nothing.parquet", "*.parquet", "", "empty"])
def test_what_matches_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"matches no Parquet file|can't be listed"):
        find_files([str(tmp_path / pattern)])


def test_footers_tell_rows_and_what_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [str(i) for i in range(10)]}, row_group_size=4)
    (before,) = footers(path)
    assert before.file.groups == (4, 4, 2)
    assert before.file.rows == 10
    write(path, {"text": [str(i) for i in range(1, 11)]}, row_group_size=4)
    (after,) = footers(path)
    assert after.file.footer != before.file.footer
    assert after.file.version != before.file.version


def encrypted(path: Path, *, plaintext_footer: bool) -> None:
    class Kms(pe.KmsClient):  # type: ignore[misc]
        def __init__(self, _: object) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

    table = pa.table(ROWS)
    columns = ["text"] if plaintext_footer else ["text", "id"]
    config = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"k": columns}, plaintext_footer=plaintext_footer
    )
    factory = pe.CryptoFactory(Kms)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_every_bad_file_is_named_in_one_message(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", ROWS).read_bytes()
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_bytes(b"this is no Parquet file at all")
    (tmp_path / "cut.parquet").write_bytes(good[:-9])
    (tmp_path / "footer.parquet").write_bytes(b"PAR1" + good[-8:])
    (tmp_path / "garbage.parquet").write_bytes(good[:-60] + b"\xff" * 52 + good[-8:])
    encrypted(tmp_path / "locked.parquet", plaintext_footer=False)
    encrypted(tmp_path / "locked-columns.parquet", plaintext_footer=True)
    with pytest.raises(InputError) as error:
        footers(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == (
        "7 of 8 input files can't be used (on_bad_file: quarantine goes on without them):"
    )
    found = {Path(line.split()[0]).stem: line for line in lines[1:]}
    assert "is empty (0 bytes)" in found["empty"]
    assert "is no Parquet file, or cut off" in found["text"]
    assert "is no Parquet file, or cut off" in found["cut"]
    assert "is cut off or damaged" in found["footer"]
    assert "can't be read" in found["garbage"]
    assert "is encrypted" in found["locked"]
    assert "has encrypted columns" in found["locked-columns"]
    # A column that nobody asks for may stay locked.
    assert footers(tmp_path / "locked-columns.parquet", columns=["id"])


@pytest.mark.parametrize("name", ["t", "tt", "ttt"])
def test_types_that_ray_data_would_unpickle_are_refused(tmp_path: Path, name: str) -> None:
    class Tensor(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.int64(), "ray.data.of_this_test")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"\x80\x04"

        @classmethod
        def __arrow_ext_deserialize__(cls, *_: object) -> "Tensor":
            raise AssertionError("it must not be deserialized")

    column = pa.ExtensionArray.from_storage(Tensor(), pa.array([1]))
    write(tmp_path / "a.parquet", {"text": ["a"], name: column})
    pa.register_extension_type(Tensor())
    try:
        with pytest.raises(InputError, match=r"ray\.data extension type"):
            footers(tmp_path)
    finally:
        pa.unregister_extension_type("ray.data.of_this_test")


def test_a_footer_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lie.parquet"
    path.write_bytes(with_rows_in_footer(1000, 900, whole_file=True))
    with pytest.raises(InputError, match="contradicts itself"):
        footers(path)


def with_rows_in_footer(rows: int, claimed: int, *, whole_file: bool) -> bytes:
    """A file of one row group whose footer claims another number of rows.

    The footer holds the count as a zigzag varint of two bytes: of the file, of the column's values,
    and of the row group (twice where there is an ordinal), in this order.
    """
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(rows)]}), sink, store_schema=False)
    data = bytearray(sink.getvalue())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = [i for i in range(start, len(data) - 8) if data[i : i + 2] == _varint(rows)]
    for place in [places[0]] if whole_file else [places[0], places[-1]]:
        data[place : place + 2] = _varint(claimed)
    return bytes(data)


def _varint(value: int) -> bytes:
    assert 64 <= value < 8192
    return bytes([(value << 1) & 0x7F | 0x80, value >> 6])


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        (["data"], "data"),
        (["data"], "data/out"),
        (["data/*.parquet"], "data"),
        (["data/a.parquet"], "data"),
        (["data/**/*.parquet"], "data/x/y"),
    ],
)
def test_an_output_among_the_inputs_is_refused(
    tmp_path: Path, inputs: list[str], output: str
) -> None:
    write(tmp_path / "data" / "a.parquet", ROWS)
    patterns = [str(tmp_path / name) for name in inputs]
    with pytest.raises(InputError, match="lies among the input files"):
        refuse_output_among_inputs(patterns, find_files(patterns), str(tmp_path / output))


def test_an_output_beside_the_inputs_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "a.parquet", ROWS)
    for pattern in (path, path.parent, path.parent / "*.parquet"):
        files = find_files([str(pattern)])
        refuse_output_among_inputs([str(pattern)], files, str(tmp_path / "data-out"))
    shutil.rmtree(tmp_path / "data")


def test_damaged_files_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", ROWS).read_bytes()
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "lines.jsonl.gz").write_bytes(b"x")
    (tmp_path / "cut.parquet").write_bytes(good[:-9])
    files = find_files([str(tmp_path / "*")])
    found = survey(files, None, quarantine=True)
    assert [footer.file.name for footer in found.footers] == ["good.parquet"]
    cut, empty, lines = found.quarantined
    assert (cut.name, cut.path) == ("cut.parquet", str(tmp_path / "cut.parquet"))
    assert (cut.size, cut.reason) == (len(good) - 9, "is no Parquet file, or cut off")
    assert cut.version.startswith("mtime ")
    assert (empty.size, empty.reason) == (0, "is empty (0 bytes)")
    assert lines.name == "lines.jsonl.gz"
    assert lines.reason.startswith("can't be read: ")


def test_a_quarantine_of_all_files_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1 input files can't be used:"):
        survey(find_files([str(tmp_path)]), None, quarantine=True)


@pytest.mark.parametrize(
    "outage",
    [OSError(5, "Input/output error"), PermissionError(13, "denied"), TimeoutError(110, "")],
)
def test_an_outage_is_never_a_reason_to_leave_a_file_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outage: OSError
) -> None:
    write(tmp_path / "a.parquet", ROWS)
    write(tmp_path / "b.parquet", ROWS)
    files = find_files([str(tmp_path)])
    open_input = pipelines.inputs.open_input

    def fail(path: str, *arguments: Any) -> Any:
        if path.endswith("b.parquet"):
            raise outage
        return open_input(path, *arguments)

    monkeypatch.setattr(pipelines.inputs, "open_input", fail)
    with pytest.raises(InputError, match="1 of 2 input files can't be used:"):
        survey(files, None, quarantine=True)


def _links(folder: Path, count: int) -> None:
    original = write(folder / "f00000.parquet", ROWS)
    for number in range(1, count):
        (folder / f"f{number:05d}.parquet").hardlink_to(original)


def test_many_files_are_looked_at_side_by_side_but_not_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _links(tmp_path, 100)
    files = find_files([str(tmp_path)])
    inspect, lock = pipelines.inputs.inspect_parquet, threading.Lock()
    at_work: list[int] = [0]
    most = 0

    def slow(*arguments: Any) -> Any:
        nonlocal most
        with lock:
            at_work[0] += 1
            most = max(most, at_work[0])
        time.sleep(0.01)
        try:
            return inspect(*arguments)
        finally:
            with lock:
                at_work[0] -= 1

    monkeypatch.setattr(pipelines.inputs, "inspect_parquet", slow)
    found = read_footers(files, None)
    assert [footer.file.name for footer in found] == [f"f{n:05d}.parquet" for n in range(100)]
    assert 4 <= most <= FOOTER_THREADS


@pytest.mark.slow
def test_ten_thousand_files(tmp_path: Path) -> None:
    _links(tmp_path, 10_000)
    before = len(psutil.Process().open_files())
    found = read_footers(find_files([str(tmp_path)]), None)
    assert sum(footer.file.rows for footer in found) == 30_000
    assert len(psutil.Process().open_files()) <= before + FOOTER_THREADS
