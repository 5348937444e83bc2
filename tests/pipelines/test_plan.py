import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import JobError, PlanMismatch
from pipelines.inputs import InputFile
from pipelines.job import Resources
from pipelines.local_store import LocalStore
from pipelines.placement import place
from pipelines.plan import (
    PLAN_NAME,
    QUARANTINE_NAME,
    Plan,
    Unit,
    join_or_start,
    make_plan,
    part_units,
    planned_files,
    record_quarantine,
    row_seed,
)
from pipelines.quarantine import BadFile

CPUS = {"CPU": 128.0}


def files(*rows: int) -> list[InputFile]:
    return [
        InputFile(f"f{i}.parquet", f"/in/f{i}.parquet", 9, "mtime 1", f"{i:x}", (n,) if n else ())
        for i, n in enumerate(rows)
    ]


def plan(*rows: int, **changes: Any) -> Plan:
    placement = place(Resources(replicas=changes.pop("replicas", 2)), [changes.pop("node", CPUS)])
    options: dict[str, Any] = {"limit": None, "unit_rows": 10, "placement": placement, "seed": 7}
    fingerprint = changes.pop("fingerprint", {"model": "abc", "prompt": "{x}"})
    return make_plan(fingerprint, files(*rows), **(options | changes))


@given(
    rows=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    limit=st.none() | st.integers(1, 400),
    unit_rows=st.none() | st.integers(1, 120),
    replicas=st.integers(1, 9),
)
def test_units_cover_every_row_once_and_in_order(
    rows: list[int], limit: int | None, unit_rows: int | None, replicas: int
) -> None:
    made = plan(*rows, limit=limit, unit_rows=unit_rows, replicas=replicas)
    units = list(made.units())
    covered = [(u.file, row) for u in units for row in range(u.first, u.last)]
    every = [(index, row) for index, count in enumerate(rows) for row in range(count)]
    assert covered == every[:limit]
    assert made.total_rows == len(covered)
    assert [u.file for u in units if u.rows == 0] == [i for i, n in enumerate(rows) if n == 0]
    names = [made.part_name(unit) for unit in units]
    assert names == sorted(set(names))
    assert part_units(names, made) == set(units)
    assert [made.index(unit) for unit in units] == list(range(made.unit_count))
    assert [Unit.from_key(unit.key) for unit in units] == units
    assert all(made.holds(unit) for unit in units)
    size = made.unit_rows
    others = [Unit(len(rows), 0, size), Unit(0, size, size), Unit(0, 1, size + 1)]
    others += [Unit(u.file, u.first, u.last + 1) for u in units]
    assert not any(made.holds(unit) for unit in others if unit not in units)


@pytest.mark.parametrize(
    ("rows", "replicas", "expected"),
    [(10, 1, 32), (2400, 2, 150), (10**6, 1, 2048), (10**6, 100, 1250)],
)
def test_units_grow_with_the_job_and_shrink_with_replicas(
    rows: int, replicas: int, expected: int
) -> None:
    made = plan(rows, unit_rows=None, replicas=replicas, node={**CPUS, "GPU": 128.0})
    assert made.unit_rows == expected


def test_units_are_shorter_where_rows_take_longer() -> None:
    assert plan(10**6, unit_rows=None).unit_rows == 256


def test_a_plan_survives_its_file() -> None:
    bad = BadFile("bad.parquet", "/in/bad.parquet", 0, "mtime 1", "is empty (0 bytes)")
    lines = replace(
        files(9)[0],
        name="lines.jsonl",
        format="jsonl",
        stride=4,
        offsets=(0, 40, 80),
        columns=(("text", "text"), ("n", "an integer")),
        partitions=(("day", "int64", "7"), ("lang", "string", None)),
    )
    made = replace(plan(25, 0, 3, 9), quarantine=(bad,))
    made = replace(made, files=(*made.files[:3], lines))
    again = Plan.from_json(made.to_json())
    assert again == made
    assert again.id == made.id


def test_the_id_depends_on_everything_but_where_the_inputs_lie() -> None:
    made = plan(25)
    assert replace(made, seed=8).id != made.id
    assert replace(made, unit_rows=11).id != made.id
    assert replace(made, fingerprint={"model": "abd"}).id != made.id
    moved = tuple(replace(file, path="s3://elsewhere") for file in made.files)
    assert replace(made, files=moved).id == made.id


BAD = BadFile("f1.parquet", "/in/f1.parquet", 5, "mtime 1", "is encrypted")


def test_a_quarantined_file_is_part_of_the_plan_but_not_how_its_fault_is_worded() -> None:
    made = plan(25, quarantine=[BAD])
    assert made.id != plan(25).id
    for same in (replace(BAD, path="s3://elsewhere"), replace(BAD, reason="can't be read")):
        assert plan(25, quarantine=[same]).id == made.id
    assert plan(25, quarantine=[replace(BAD, size=6)]).id != made.id


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            plan(25, quarantine=[BAD]),
            plan(25, 3),
            "input f1.parquet: it was quarantined since it is encrypted; now it can be read",
        ),
        (
            plan(25, 3),
            plan(25, quarantine=[BAD]),
            "input f1.parquet: it could be read; now it is encrypted",
        ),
        (plan(25, quarantine=[BAD]), plan(25), "input f1.parquet: it is gone"),
        (plan(25), plan(25, quarantine=[BAD]), "input f1.parquet: it is new"),
        (
            plan(25, quarantine=[BAD]),
            plan(25, quarantine=[replace(BAD, size=6)]),
            "input f1.parquet: size: was 5, is 6",
        ),
    ],
)
def test_a_change_in_the_quarantine_is_a_changed_input(
    tmp_path: Path, before: Plan, after: Plan, line: str
) -> None:
    store = LocalStore(str(tmp_path))
    join_or_start(store, before, unit_rows_given=False)
    assert planned_files(store) == before.files
    with pytest.raises(PlanMismatch) as error:
        join_or_start(store, after, unit_rows_given=False)
    assert str(error.value).splitlines()[1:] == [f"  {line}"]


def test_the_same_bad_files_join_and_are_written_down(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    made, _ = join_or_start(store, plan(25, quarantine=[BAD]), unit_rows_given=False)
    again = plan(25, quarantine=[replace(BAD, reason="is locked")])
    assert join_or_start(store, again, unit_rows_given=False) == (made, True)
    record_quarantine(store, made)
    record_quarantine(store, plan(25))
    (entry,) = json.loads(store.read(QUARANTINE_NAME))
    assert entry == {
        "name": "f1.parquet",
        "path": "/in/f1.parquet",
        "size": 5,
        "version": "mtime 1",
        "reason": "is encrypted",
    }


def test_without_a_plan_no_files_are_known(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    assert planned_files(store) == ()
    store.put_if_absent(PLAN_NAME, b"{")
    assert planned_files(store) == ()


def test_strays_of_other_plans_are_not_this_plans_parts() -> None:
    made, other = plan(25), plan(25, seed=8)
    names = [other.part_name(Unit(0, 0, 10)), "_SUCCESS", "part-x.parquet", "notes.txt"]
    assert part_units(names, made) == set()


def test_an_equal_job_joins_the_plan_that_is_there(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    first = plan(25, seed=None, unit_rows=None)
    assert join_or_start(store, first, unit_rows_given=False) == (first, False)
    # Another number of replicas, another drawn seed, and the inputs copied elsewhere.
    second = plan(25, seed=None, unit_rows=3)
    moved = replace(second, files=tuple(replace(f, path="/moved") for f in second.files))
    joined, was_there = join_or_start(store, moved, unit_rows_given=False)
    assert was_there
    assert (joined.id, joined.seed, joined.unit_rows) == (first.id, first.seed, first.unit_rows)
    assert joined.files[0].path == "/moved"


@pytest.mark.parametrize(
    ("other", "lines"),
    [
        (
            plan(25, fingerprint={"model": "abc", "prompt": "{y}", "chat": True}),
            ['prompt: was "{x}", is "{y}"', "chat: was null, is true"],
        ),
        (plan(26), ["input f0.parquet: groups: was [25], is [26]"]),
        (plan(25, 1), ["input f1.parquet: it is new"]),
        (plan(25, unit_rows=11), ["unit_rows: was 10, is 11"]),
        (
            replace(plan(25), files=(replace(files(25)[0], version="mtime 2"),)),
            ['input f0.parquet: version: was "mtime 1", is "mtime 2"'],
        ),
    ],
)
def test_another_job_is_refused_with_a_line_per_difference(
    tmp_path: Path, other: Plan, lines: list[str]
) -> None:
    store = LocalStore(str(tmp_path))
    join_or_start(store, plan(25), unit_rows_given=True)
    with pytest.raises(PlanMismatch) as error:
        join_or_start(store, other, unit_rows_given=True)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == lines


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", json.dumps({"format": 99}).encode()])
def test_a_damaged_plan_is_refused(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(str(tmp_path))
    store.put_if_absent(PLAN_NAME, data)
    with pytest.raises(JobError, match="can't be used"):
        join_or_start(store, plan(25), unit_rows_given=False)


def test_row_seeds_differ_by_job_file_and_row() -> None:
    seeds = {row_seed(s, f, r) for s in range(4) for f in ("a", "b") for r in range(50)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(1, "a", 2) == row_seed(1, "a", 2)
