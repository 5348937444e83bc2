"""Columns in paths."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipelines import InputError
from pipelines.inputs import Footer, read_footers
from pipelines.listing import find_files
from pipelines.partitions import partition_types, partitions_of
from pipelines.plan import Unit
from pipelines.prompts import PromptSource
from pipelines.reader import read_units
from pipelines.schema import check_columns, read_columns

from .data import spec, write

ROWS = {"text": ["a", "b"]}


def footers(*patterns: Path, columns: list[str] | None = None) -> list[Footer]:
    return read_footers(find_files([str(pattern) for pattern in patterns]), columns)


def values(footer: Footer, *columns: str) -> dict[str, list[object]]:
    unit = Unit(0, 0, footer.file.rows)
    (rows,) = read_units(footer.file, [unit], columns or None)
    assert rows.table.schema.names == [
        n for n in footer.schema.names if not columns or n in columns
    ]
    found: dict[str, list[object]] = rows.table.to_pydict()
    return found


def test_partitions_are_columns_as_other_readers_have_them(tmp_path: Path) -> None:
    for year, lang in ((2025, "de"), (2026, "en")):
        write(tmp_path / f"year={year}" / f"lang={lang}" / "a.parquet", ROWS)
    found = footers(tmp_path)
    assert [f.file.name for f in found] == [
        "year=2025/lang=de/a.parquet",
        "year=2026/lang=en/a.parquet",
    ]
    assert values(found[0]) == {"text": ["a", "b"], "year": [2025] * 2, "lang": ["de"] * 2}
    assert values(found[1], "lang") == {"lang": ["en", "en"]}
    theirs = ds.dataset(tmp_path, partitioning="hive").to_table()
    ours = pa.concat_tables([pa.table(values(footer)) for footer in found])
    assert ours.sort_by("year").to_pydict() == theirs.sort_by("year").to_pydict()


def test_partitions_can_be_kept_and_used_in_prompts(tmp_path: Path) -> None:
    write(tmp_path / "day=7" / "a.parquet", {"text": ["a"], "other": [1]})
    job = spec(prompt="{text} on {day}", keep=["day"])
    source = PromptSource.of(job)
    found = footers(tmp_path / "day=7", columns=list(read_columns(source, job.keep) or ()))
    kept = check_columns(found, source, job.keep)
    assert kept == pa.schema([("day", pa.int64())])
    assert values(found[0], "text", "day") == {"text": ["a"], "day": [7]}


def test_values_are_unescaped_and_null_has_its_name(tmp_path: Path) -> None:
    write(tmp_path / "a b%3Dc=x%2Fy é" / "a.parquet", ROWS)
    write(tmp_path / "a b%3Dc=__HIVE_DEFAULT_PARTITION__" / "b.parquet", ROWS)
    null, text = footers(tmp_path)
    assert values(null)["a b=c"] == [None, None]
    assert values(text)["a b=c"] == ["x/y é", "x/y é"]


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        (["1", "-20", "0"], "int64"),
        (["1", "x"], "string"),
        (["01", "02"], "string"),
        (["1", None], "int64"),
        ([None], "string"),
        (["9223372036854775807"], "int64"),
        (["9223372036854775808"], "string"),
        (["", "1"], "string"),
        (["-0"], "string"),
        (["\uff11"], "string"),
        (["1_0"], "string"),
    ],
)
def test_integers_are_what_can_be_spelled_back(spelled: list[str | None], kind: str) -> None:
    assert partition_types([("k", "string", value)] for value in spelled) == {"k": kind}


def test_a_clash_with_a_column_of_the_file_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "day=7" / f"{name}.parquet", {"text": ["a"], "day": [7]})
    with pytest.raises(InputError) as error:
        footers(tmp_path)
    message = str(error.value)
    assert "has a column 'day' and lies in a folder day=...: rename one of them (and 1 " in message
    assert "\n" not in message


def test_a_folder_in_a_folder_of_the_same_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two folders that begin with k="):
        partitions_of("/in/k=1/k=2/a.parquet")
    assert partitions_of("/in/=1/k=/x/c=d.parquet") == (("k", ""),)


def test_a_file_outside_the_partitions_is_named(tmp_path: Path) -> None:
    write(tmp_path / "day=7" / "a.parquet", ROWS)
    write(tmp_path / "b.parquet", ROWS)
    job = spec(prompt="{text}")
    source = PromptSource.of(job)
    with pytest.raises(InputError, match=r"b\.parquet: there is no column 'day'"):
        check_columns(footers(tmp_path), source, "*")
