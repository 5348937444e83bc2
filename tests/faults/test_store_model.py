"""Runs of two jobs on one output, stopped at any step, with writes that arrive at any time."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import pyarrow.parquet as pq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipelines import JobError, PlanMismatch
from pipelines.commit import SUCCESS_NAME, commit, committed, finish
from pipelines.plan import PLAN_NAME, Plan, Unit, join_or_start
from pipelines.storage import probe
from tests.pipelines.test_plan import plan

from .job import rows
from .model_store import Files, ModelStore, StoppedError, When

# Two jobs that differ in what decides the results; the second's rows must never get among the
# first's. A file without rows has a part, too.
JOBS = (plan(8, 0, 3, unit_rows=4), plan(8, 0, 3, unit_rows=4, fingerprint={"model": "other"}))
STOPS = st.none() | st.tuples(st.integers(1, 12), st.sampled_from(["before", "after", "late"]))

Stop = tuple[int, When] | None


@dataclass
class Run:
    """A process that runs a job: it has joined the plan."""

    plan: Plan
    number: int


class Runs(RuleBasedStateMachine):
    """Every rule is one step of one run; `stop` says whether its process ends amid it."""

    def __init__(self) -> None:
        super().__init__()
        self.files = Files()
        self.runs: list[Run] = []
        self.started = 0
        self.first: dict[str, bytes] = {}

    def store(self, stop: Stop) -> ModelStore:
        return ModelStore(self.files, *(stop or ()))

    @rule(job=st.sampled_from(JOBS), stop=STOPS)
    def start(self, job: Plan, stop: Stop) -> None:
        store = self.store(stop)
        self.started += 1
        with suppress(StoppedError, PlanMismatch):
            probe(store)
            joined, _ = join_or_start(store, job, unit_rows_given=False)
            committed(store, joined)
            assert joined.fingerprint == job.fingerprint
            self.runs.append(Run(joined, self.started))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), stop=STOPS)
    def commit(self, data: st.DataObject, stop: Stop) -> None:
        run = data.draw(st.sampled_from(self.runs))
        unit = data.draw(st.sampled_from(list(run.plan.units())))
        attempt = f"run {run.number} of {self.started}"
        with self.process(run, stop) as store:
            receipt = commit(store, run.plan, unit, rows(unit, attempt))
            assert Unit(*receipt.unit) == unit

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), stop=STOPS)
    def finish(self, data: st.DataObject, stop: Stop) -> None:
        run = data.draw(st.sampled_from(self.runs))
        with self.process(run, stop) as store:
            receipts = committed(store, run.plan)
            missing = set(run.plan.units()) - receipts.keys()
            try:
                finish(store, run.plan, receipts)
            except JobError:
                assert missing
            else:
                assert not missing

    @precondition(lambda self: self.runs)
    @rule(stop=STOPS)
    def complete(self, stop: Stop) -> None:
        """One run does all that is left to do."""
        run = self.runs[-1]
        with self.process(run, stop) as store:
            done = committed(store, run.plan)
            for unit in run.plan.units():
                if unit not in done:
                    commit(store, run.plan, unit, rows(unit, f"run {run.number}"))
            finish(store, run.plan, committed(store, run.plan))

    @precondition(lambda self: self.files.late)
    @rule(data=st.data(), times=st.integers(1, 2))
    def arrive(self, data: st.DataObject, times: int) -> None:
        """A write of a process that is gone takes effect now, once or twice."""
        write = data.draw(st.sampled_from(self.files.late))
        self.files.late.remove(write)
        for _ in range(times):
            self.files.put(*write)

    def process(self, run: Run, stop: Stop) -> "_Process":
        return _Process(self, run, self.store(stop))

    @invariant()
    def what_was_written_stays(self) -> None:
        for name, data in self.files.contents.items():
            if "probe" not in name:
                assert self.first.setdefault(name, data) == data
        assert all(name in self.files.contents for name in self.first)

    @invariant()
    def no_row_is_there_twice_and_none_is_anothers(self) -> None:
        found = self.rows_found()
        assert all(count == 1 for count in found.values())
        if found:
            holder = Plan.from_json(self.files.contents[PLAN_NAME])
            names = {holder.part_name(unit) for unit in holder.units()}
            assert {n for n in self.files.contents if n.startswith("part-")} <= names

    @invariant()
    def the_mark_of_the_end_says_so_only_when_all_is_there(self) -> None:
        mark = self.files.contents.get(SUCCESS_NAME)
        if mark is None:
            return
        holder = Plan.from_json(self.files.contents[PLAN_NAME])
        units = list(holder.units())
        assert [part["name"] for part in json.loads(mark)["parts"]] == [
            holder.part_name(unit) for unit in units
        ]
        wanted = {(f"f{u.file}.parquet", row) for u in units for row in range(u.first, u.last)}
        assert self.rows_found().keys() == wanted

    def rows_found(self) -> Counter[tuple[str, int]]:
        """Read what is there, as any reader of Parquet would."""
        found: Counter[tuple[str, int]] = Counter()
        for name, data in self.files.contents.items():
            if name.endswith(".parquet"):
                table = pq.ParquetFile(BytesIO(data)).read()
                identity = (table["source_file"].to_pylist(), table["source_row"].to_pylist())
                found.update(zip(*identity, strict=True))
        return found


class _Process:
    """A run's process while it does something; one that stops takes its run along."""

    def __init__(self, machine: Runs, run: Run, store: ModelStore) -> None:
        self._machine, self._run, self._store = machine, run, store

    def __enter__(self) -> ModelStore:
        return self._store

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is StoppedError:
            self._machine.runs.remove(self._run)
        return kind is StoppedError


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
