import pytest

from actors.progress import SILENT_AFTER_S, ProgressBoard, Report


def test_reports_add_up() -> None:
    board = ProgressBoard()
    board.begin("u1")
    board.begin("u2")
    board.report("a", Report(10, 1, {"u1": (3, 1)}))
    board.report("a", Report(20, 2, {"u1": (5, 1)}))
    board.report("b", Report(5, 4, {"u2": (1, 0)}))
    snapshot = board.read([])
    assert (snapshot.replicas, snapshot.prompt_tokens, snapshot.output_tokens) == (2, 25, 6)
    assert snapshot.units == {"u1": (5, 1), "u2": (1, 0)}
    assert snapshot.fatal is None


def test_units_that_are_done_are_forgotten_for_good() -> None:
    board = ProgressBoard()
    board.begin("u1")
    board.report("a", Report(1, 1, {"u1": (3, 0)}))
    assert board.read(["u1"]).units == {}
    board.report("a", Report(1, 1, {"u1": (4, 0)}))  # it was on its way
    assert board.read([]).units == {}


def test_a_unit_that_is_begun_again_starts_from_nothing() -> None:
    board = ProgressBoard()
    assert board.begin("u1") == 1
    board.report("a", Report(9, 9, {"u1": (3, 2)}))
    assert board.begin("u1") == 2
    assert board.read([]).units == {"u1": (0, 0)}


def test_attempts_of_earlier_runs_count() -> None:
    board = ProgressBoard({"u1": 3})
    assert [board.attempts("u1"), board.attempts("u2")] == [3, 0]
    assert [board.begin("u1"), board.begin("u2")] == [4, 1]
    assert board.open() == {"u1": 4, "u2": 1}
    board.read(["u1"])
    assert board.open() == {"u2": 1}


def test_tasks_that_end_well_start_from_nothing() -> None:
    board = ProgressBoard()
    assert [board.tried("read"), board.tried("read"), board.tried("commit")] == [1, 2, 1]
    board.ended("read")
    board.ended("never begun")
    assert board.tried("read") == 1


def test_the_first_reason_to_give_up_stays() -> None:
    board = ProgressBoard()
    board.give_up("no memory")
    board.give_up("other")
    assert board.read([]).fatal == "no memory"


def test_silent_replicas_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    board = ProgressBoard()
    board.report("a", Report(7, 1))
    later = board._reports["a"][0] + SILENT_AFTER_S + 1
    monkeypatch.setattr("time.monotonic", lambda: later)
    board.report("b", Report(1, 1))
    assert (board.read([]).replicas, board.read([]).prompt_tokens) == (1, 8)
