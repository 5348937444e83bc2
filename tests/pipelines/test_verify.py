import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import InputError, JobError
from pipelines.commit import SUCCESS_NAME
from pipelines.inputs import InputFile
from pipelines.part_check import counted, row_faults
from pipelines.plan import PLAN_NAME, Unit
from pipelines.verify import UNITS_PER_RUN, runs, verify
from tests.conftest import Bucket

from .data import invalid_text, write
from .outputs import Made, columns, failed, make_output

PLANNED = 50 + 20


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_output(tmp_path)


def unlink(made: Made, unit: Unit) -> None:
    made.path(unit).unlink()


def remove_row(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    made.rewrite(unit, pa.concat_tables([table.slice(0, 3), table.slice(4)]))


def remove_row_quietly(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    less = pa.concat_tables([table.slice(0, 3), table.slice(4)])
    pq.write_table(less, made.path(unit))  # with the receipt of before


def double_row(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    made.rewrite(unit, pa.concat_tables([table, table.slice(3, 1)]))


def replace_row(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    rows = [0, 1, 2, 2, *range(4, table.num_rows)]
    made.rewrite(unit, table.take(rows))


def swap_rows(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    made.rewrite(unit, table.take([1, 0, *range(2, table.num_rows)]))


def swap_identities(made: Made, unit: Unit) -> None:
    first, second = made.table(unit)["source_row"].to_pylist()[:2]
    made.set_cell(unit, "source_row", 0, second)
    made.set_cell(unit, "source_row", 1, first)


def another_file(made: Made, unit: Unit) -> None:
    made.set_cell(unit, "source_file", 2, "f1.parquet")


def drop_kept(made: Made, unit: Unit) -> None:
    made.rewrite(unit, made.table(unit).drop_columns(["price"]))


def drop_identity(made: Made, unit: Unit) -> None:
    table = made.table(unit)
    pq.write_table(table.drop_columns(["source_row"]), made.path(unit))


def another_plan(made: Made, unit: Unit) -> None:
    made.rewrite(unit, made.table(unit), plan="0" * 64)


def another_unit(made: Made, unit: Unit) -> None:
    shutil.copy(made.path(made.units[2]), made.path(unit))


def wrong_receipt(made: Made, unit: Unit) -> None:
    made.rewrite(unit, made.table(unit), failed=9)


def wrong_tokens(made: Made, unit: Unit) -> None:
    made.rewrite(unit, made.table(unit), completion_tokens=1)


def no_receipt(made: Made, unit: Unit) -> None:
    pq.write_table(made.table(unit).replace_schema_metadata(None), made.path(unit))


def cut_off(made: Made, unit: Unit) -> None:
    path = made.path(unit)
    path.write_bytes(path.read_bytes()[:-20])


def garble(made: Made, unit: Unit) -> None:
    """Spoil the pages, and leave the footer as it is."""
    path = made.path(unit)
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little")
    data[4 : len(data) - footer - 8] = bytes(len(data) - footer - 12)
    path.write_bytes(data)


def empty(made: Made, unit: Unit) -> None:
    made.path(unit).write_bytes(b"")


def stray(made: Made, unit: Unit) -> None:
    shutil.copy(made.path(unit), made.path(unit).with_name("part-00000000-more.parquet"))


def no_mark(made: Made, unit: Unit) -> None:
    Path(made.url, SUCCESS_NAME).unlink()


def wrong_mark(made: Made, unit: Unit) -> None:
    path = Path(made.url, SUCCESS_NAME)
    path.write_text(json.dumps({**json.loads(path.read_text()), "failed": 0}))


def short_mark(made: Made, unit: Unit) -> None:
    path = Path(made.url, SUCCESS_NAME)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "parts": values["parts"][1:]}))


def foreign_mark(made: Made, unit: Unit) -> None:
    Path(made.url, SUCCESS_NAME).write_bytes(b"\xff{")


SPOILS: dict[Callable[[Made, Unit], None], str] = {
    unlink: "is missing",
    remove_row: "it lacks 1 row, the first of them row 19",
    remove_row_quietly: "its receipt says rows 16, but it is 15",
    double_row: "it holds 1 row twice or more, the first of them row 19",
    replace_row: "it lacks 1 row, the first of them row 19",
    swap_rows: "its rows are out of order from row 16 on",
    swap_identities: "its rows are out of order from row 16 on",
    another_file: "it holds 1 row not of f0.parquet",
    drop_kept: "its kept columns are (id: int32, text: string",
    drop_identity: "it has no column 'source_row' of type int64",
    another_plan: f"its receipt says plan {'0' * 64}",
    another_unit: "it lacks 16 rows, the first of them row 16",
    wrong_receipt: "its receipt says failed 9, but it is",
    wrong_tokens: "its receipt says completion_tokens 1",
    no_receipt: "it has no receipt that can be read",
    cut_off: "is damaged",
    garble: "is damaged",
    empty: "is damaged",
    stray: "is no part of this plan",
    no_mark: "all parts are there; run the same job again",
    wrong_mark: "says failed 0, but it is",
    short_mark: "names other parts than the plan",
    foreign_mark: "can't be used",
}


def test_a_sound_output_is_proven(made: Made) -> None:
    seen: list[tuple[int, int]] = []
    found = verify(made.url, on_progress=lambda done, total: seen.append((done, total)))
    assert found.findings == ()
    assert found.proven
    assert (found.parts, found.parts_planned) == (4 + 2 + 1, 4 + 2 + 1)
    assert (found.rows, found.rows_planned, found.rows_compared) == (PLANNED, PLANNED, PLANNED)
    assert found.rows_failed == sum(failed(row) for count in (50, 20) for row in range(count))
    assert found.kept == tuple(columns(0).column_names)
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_every_fault_is_found_and_named(made: Made, spoil: Callable[[Made, Unit], None]) -> None:
    unit = made.units[1]
    assert (unit.first, unit.last) == (16, 32)
    spoil(made, unit)
    found = verify(made.url)
    assert not found.proven
    texts = [f"{finding.where}: {finding.what}" for finding in found.findings]
    assert any(SPOILS[spoil] in text for text in texts), texts
    # Nothing is said of the parts that are sound.
    others = {made.plan.part_name(other) for other in made.units if other != unit}
    assert not others & {finding.where for finding in found.findings}
    # Without the input it is found as well: no cell was changed.
    assert verify(made.url, with_input=False).findings == found.findings


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", 99),
        ("text", "another"),
        ("text", None),
        ("kind", "another"),
        ("price", 7.0),
        ("vector", [3.0, 1.0]),
        ("who", {"name": "n19", "age": 18}),
    ],
)
def test_a_changed_cell_is_found_by_the_input_alone(made: Made, column: str, value: object) -> None:
    unit = made.units[1]
    made.set_cell(unit, column, 3, value)
    (finding,) = verify(made.url).findings
    assert finding.where == made.plan.part_name(unit)
    assert (
        finding.what
        == f"column {column!r} differs from the input in 1 row, the first of them row 19"
    )
    assert verify(made.url, with_input=False).proven


def test_kept_columns_of_two_rows_that_changed_places_are_found(made: Made) -> None:
    unit = made.units[0]
    table = made.table(unit)
    at = table.schema.get_field_index("text")
    swapped = table["text"].take(pa.array([1, 0, *range(2, 16)]))
    made.rewrite(unit, table.set_column(at, table.schema.field(at), swapped))
    (finding,) = verify(made.url).findings
    assert finding.what == "column 'text' differs from the input in 2 rows, the first of them row 0"


def test_several_faults_are_all_found(made: Made) -> None:
    unlink(made, made.units[0])
    made.set_cell(made.units[1], "id", 0, -1)
    cut_off(made, made.units[4])
    found = verify(made.url)
    assert found.faults == 3
    assert found.rows == PLANNED - 16 - 16
    assert [finding.where for finding in found.findings] == [
        made.plan.part_name(made.units[index]) for index in (0, 1, 4)
    ]


def test_text_that_was_nulled_is_equal_to_what_it_was(tmp_path: Path) -> None:
    made = make_output(
        tmp_path, rows=(8,), source=lambda _: pa.table({"text": invalid_text(*[b"\xff", b"x"] * 4)})
    )
    unit = made.units[0]
    (finding,) = verify(made.url).findings
    assert finding.what == "column 'text' differs from the input in 4 rows, the first of them row 0"
    nulled = pa.array([None, "x"] * 4, pa.string())
    made.rewrite(unit, made.table(unit).set_column(0, "text", nulled))
    assert verify(made.url).proven


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_an_input_that_is_no_more_leaves_the_cells_unproven(made: Made, what: str) -> None:
    path = made.inputs / "f1.parquet"
    if what == "gone":
        path.unlink()
    else:
        write(path, columns(21))
    found = verify(made.url)
    assert not found.proven
    assert (found.faults, found.rows, found.rows_compared) == (0, PLANNED, 50)
    (reason,) = found.unchecked
    assert "f1.parquet" in reason
    assert verify(made.url, with_input=False).proven


def test_an_unfinished_job_says_what_is_missing(tmp_path: Path) -> None:
    made = make_output(tmp_path, parts=3)
    found = verify(made.url)
    assert (found.parts, found.faults) == (3, 4 + 1)
    assert found.findings[-1].what == (
        "is missing: 4 parts are still to be computed; run the same job again"
    )


def test_s3_is_verified_as_a_folder_is(s3: Bucket, tmp_path: Path) -> None:
    made = make_output(tmp_path, url=s3.url("out"))
    assert verify(made.url).proven
    s3.fs.rm_file(s3.url(f"out/{made.plan.part_name(made.units[2])}"))
    assert [finding.what for finding in verify(made.url).findings] == ["is missing"]


@pytest.mark.parametrize("contents", [None, b"", b"{}", b"\xff"])
def test_what_is_no_output_cannot_be_checked(tmp_path: Path, contents: bytes | None) -> None:
    if contents is not None:
        (tmp_path / "_job").mkdir()
        (tmp_path / PLAN_NAME).write_bytes(contents)
    with pytest.raises(JobError, match=r"holds no job|can't be used"):
        verify(str(tmp_path))


def test_an_input_that_changes_meanwhile_ends_the_proof(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.verify._unreadable", lambda _files, _read: {})
    write(made.inputs / "f0.parquet", columns(51))
    with pytest.raises(InputError, match="changed since"):
        verify(made.url)


def test_no_more_findings_are_kept_than_anybody_reads(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.verify.MOST_FINDINGS", 2)
    for unit in made.units[:4]:
        unlink(made, unit)
    found = verify(made.url)
    assert (found.faults, len(found.findings)) == (4, 2)


@given(st.lists(st.integers(-2, 8), max_size=10), st.integers(0, 4), st.integers(0, 5))
def test_rows_have_faults_exactly_if_they_are_not_the_expected(
    rows: list[int], first: int, count: int
) -> None:
    expected = list(range(first, first + count))
    faults = list(row_faults(np.array(rows, np.int64), first, first + count))
    assert bool(faults) == (rows != expected)
    times = Counter(rows)
    missing = [row for row in expected if not times[row]]
    doubled = [row for row in expected if times[row] > 1]
    lacks = f"it lacks {counted(len(missing))}, the first of them row {[*missing, None][0]}"
    holds = f"it holds {counted(len(doubled))} twice or more, the first of them row"
    assert (lacks in faults) == bool(missing)
    assert (f"{holds} {[*doubled, None][0]}" in faults) == bool(doubled)


@given(
    st.lists(st.lists(st.integers(1, 60), max_size=4).map(tuple), min_size=1, max_size=3),
    st.integers(1, 20),
)
def test_runs_cover_all_units_and_go_on_to_the_end_of_a_row_group(
    groups: list[tuple[int, ...]], unit_rows: int
) -> None:
    files = [InputFile(f"f{i}", f"/f{i}", 1, "v", "d", sizes) for i, sizes in enumerate(groups)]
    units = [
        Unit(index, first, min(first + unit_rows, file.rows))
        for index, file in enumerate(files)
        for first in range(0, max(1, file.rows), unit_rows)
    ]
    found = list(runs(files, units))
    assert [unit for run in found for unit in run] == units
    for run in found:
        assert len({unit.file for unit in run}) == 1
        file = files[run[0].file]
        ends = np.cumsum(file.groups)
        end = next((int(end) for end in ends if end > run[0].first), 0)
        # It ends early only at the end of the file, or behind the group that it began in.
        assert run[-1].last == file.rows or run[-1].last >= end
        assert run[-1].last == file.rows or len(run) >= UNITS_PER_RUN


def test_a_part_may_be_written_in_any_number_of_row_groups(made: Made) -> None:
    unit = made.units[0]
    pq.write_table(made.table(unit), made.path(unit), row_group_size=3)
    assert verify(made.url).proven
