from pathlib import Path

from pipelines.attempts import FOLDER, forget, forget_all, note, noted
from pipelines.local_store import LocalStore
from pipelines.plan import Unit

A, B = Unit(0, 0, 10), Unit(2, 40, 50)


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    assert noted(store) == {}
    for attempt in (1, 2, 2):  # as when two runs begin a unit at the same time
        note(store, A, attempt)
    note(store, B, 1)
    (tmp_path / FOLDER / ".nfs0001").touch()
    assert noted(store) == {A: 2, B: 1}


def test_an_attempt_that_proved_nothing_is_forgotten(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for attempt in (1, 2, 3):
        note(store, A, attempt)
    forget(store, A, [3])
    assert noted(store) == {A: 2}
    note(store, B, 1)
    forget_all(store, [(A, range(1, 4)), (B, [1])])
    assert noted(store) == {}
