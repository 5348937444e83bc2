import math

from model.engine.pace import LEAST_S, REMEMBERED, Pace


def test_a_step_is_held_against_steps_of_its_size_or_larger() -> None:
    pace = Pace()
    assert pace.limit(1) == math.inf
    for _ in range(50):
        pace.add(1, 0.02)
    assert pace.limit(1) == LEAST_S
    # A prompt after many single tokens may take as long as it takes.
    assert pace.limit(512) == math.inf
    pace.add(512, 30.0)
    assert pace.limit(512) == 150.0
    assert pace.limit(513) == 150.0  # the same power of two
    assert pace.limit(1024) == math.inf


def test_one_slow_step_in_a_hundred_sets_no_limit() -> None:
    pace = Pace()
    pace.add(8, 600.0)
    for _ in range(120):
        pace.add(8, 4.0)
    assert pace.limit(8) == 20.0


def test_what_is_remembered_is_bounded() -> None:
    pace = Pace()
    for seconds in [100.0] * REMEMBERED + [3.0] * REMEMBERED:
        pace.add(8, seconds)
    assert pace.limit(8) == 15.0
