import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import JobError
from pipelines.commit import read_receipt
from pipelines.status import PATIENCE_S, SAMPLED_PARTS, read_status

from .outputs import REPLICAS, STARTED, UNIT_S, Made, failed, make_output
from .test_verify import cut_off

ROWS = (50, 20, 0)


def touched(made: Made) -> Made:
    """Give each part the time that its receipt says, as the store would have."""
    for unit in made.units:
        path = made.path(unit)
        if path.exists():
            finished = read_receipt(made.store, path.name).finished
            os.utime(path, (finished, finished))
    return made


def test_a_running_job(tmp_path: Path) -> None:
    made = touched(make_output(tmp_path, parts=4))
    # Two replicas take ten seconds for each unit; the fourth part came at twenty seconds.
    status = read_status(made.url, now=STARTED + 2 * UNIT_S + 5)
    assert (status.state, status.parts, status.parts_planned) == ("running", 4, 7)
    assert (status.rows, status.rows_planned, status.last_part) == (50, 70, 5.0)
    assert status.rate is not None
    # The second part came with the first one, so it counts among those that came since.
    assert status.rate.seconds == UNIT_S
    assert status.rate.rows == pytest.approx((16 + 16 + 2) / UNIT_S)
    assert status.eta == pytest.approx(20 / status.rate.rows)
    assert (status.failed, status.failed_of) == (sum(map(failed, range(50))), 50)
    assert {replica.replica for replica in status.replicas} == set(REPLICAS)
    assert [(replica.parts, replica.last) for replica in status.replicas] == [(2, 5.0), (2, 5.0)]


def test_a_job_that_nobody_goes_on_with(tmp_path: Path) -> None:
    made = touched(make_output(tmp_path, parts=4))
    status = read_status(made.url, now=STARTED + 2 * UNIT_S + PATIENCE_S + 1)
    assert (status.state, status.eta) == ("stopped", None)
    assert status.rate is not None


def test_a_job_whose_units_take_long_is_waited_for(tmp_path: Path) -> None:
    made = make_output(tmp_path, parts=1)
    unit = made.units[0]
    made.rewrite(unit, made.table(unit), begun=STARTED - 3600, finished=STARTED)
    status = read_status(touched(made).url, now=STARTED + 3000)
    assert status.state == "running"
    assert status.rate is not None
    assert status.rate.rows == pytest.approx(16 / 3600)


def test_a_complete_job(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    status = read_status(made.url)
    assert (status.state, status.parts, status.rows, status.eta) == ("complete", 7, 70, None)
    assert status.failed == sum(failed(row) for count in ROWS for row in range(count))


def test_a_job_without_parts(tmp_path: Path) -> None:
    status = read_status(make_output(tmp_path, parts=0).url)
    assert (status.state, status.rate, status.last_part) == ("planned", None, None)
    assert (status.rows, status.failed_of, status.replicas) == (0, 0, ())


def test_parts_of_older_versions_have_the_time_of_their_file(tmp_path: Path) -> None:
    made = make_output(tmp_path, parts=3)
    for number, unit in enumerate(made.units[:3]):
        made.rewrite(unit, made.table(unit), begun=0.0, finished=0.0, replica="", latencies=())
        os.utime(made.path(unit), (STARTED + 4 * number, STARTED + 4 * number))
    status = read_status(made.url, now=STARTED + 10)
    assert status.rate is not None
    assert status.rate.rows == pytest.approx(32 / 8)
    assert (status.last_part, status.replicas) == (2.0, ())


def test_damage_and_strays_are_counted(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    cut_off(made, made.units[1])
    Path(made.url, "part-y.parquet").touch()
    status = read_status(made.url)
    assert (status.damaged, status.strays) == (1, 1)


def test_few_receipts_are_read_however_many_parts_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_output(tmp_path, rows=(400,), unit_rows=2)
    read: list[str] = []

    def counted(store, name):
        read.append(name)
        return read_receipt(store, name)

    monkeypatch.setattr("pipelines.output.read_receipt", counted)
    status = read_status(made.url)
    assert len(read) == len(set(read)) == 2 * SAMPLED_PARTS
    assert 0 < status.failed_of < status.rows == 400
    exact = read_status(made.url, full=True)
    assert (exact.failed, exact.failed_of) == (sum(map(failed, range(400))), 400)


def test_a_folder_without_a_job_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(JobError, match="holds no job"):
            read_status(str(folder))


def test_times_of_receipts_come_before_those_of_files(tmp_path: Path) -> None:
    made = make_output(tmp_path, parts=2)  # written now, computed long ago
    status = read_status(made.url, now=STARTED + UNIT_S + 1)
    assert status.last_part == 1.0
    assert status == replace(status, state="running")
