import itertools
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.contenders import Gemmaray, Spec
from benchmarks.profile_step import PARTS, REST, Stopwatch, main, show, timers
from benchmarks.workloads import Workload


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_moment_is_charged_to_the_innermost_part() -> None:
    clock = Clock()
    watch = Stopwatch(clock, lambda: None)

    def inner() -> None:
        clock.now += 1.0

    timed_inner = watch.around("inner", inner)

    def outer() -> None:
        clock.now += 10.0
        timed_inner()
        clock.now += 20.0

    watch.start()
    watch.around("outer", outer)()
    clock.now += 100.0
    watch.stop()
    assert watch.seconds == {"inner": 1.0, "outer": 30.0, REST: 100.0}
    assert watch.calls == {"inner": 1, "outer": 1}


def test_an_error_closes_its_part() -> None:
    clock = Clock()
    watch = Stopwatch(clock, lambda: None)

    def fail() -> None:
        clock.now += 1.0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        watch.around("part", fail)()
    clock.now += 2.0
    watch.stop()
    assert watch.seconds == {"part": 1.0, REST: 2.0}


def test_every_part_of_the_engine_is_seen_and_left_as_it_was(checkpoint: Path) -> None:
    contender = Gemmaray(Spec("gemmaray", checkpoint, "float32", "cpu", threads=1))
    ticks = itertools.count()
    watch = Stopwatch(lambda: float(next(ticks)), lambda: None)
    before = [getattr(part.owner, part.function) for part in PARTS]
    with timers(watch):
        watch.start()
        contender.run(Workload("uniform", 3, 0.05).requests())
        watch.stop()
    assert before == [getattr(part.owner, part.function) for part in PARTS]
    assert {part.label for part in PARTS} | {"attention", "rotate"} == watch.calls.keys()
    assert watch.calls["rest of step"] == contender.engine.stats.steps
    # The parts add up to the whole: a tick passed at each border, and none is lost.
    assert sum(watch.seconds.values()) == next(ticks) - 1 == 2 * sum(watch.calls.values()) + 1


def test_a_profile_is_printed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"--checkpoint {checkpoint} --workload uniform:2:0.05 --threads 1 --cpu-time"
    main([*text.split(), "--cprofile", "5"])
    printed = capsys.readouterr().out
    assert "the engine's own share is" in printed
    assert "Ordered by: internal time" in printed


def test_the_largest_part_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Stopwatch(Clock(), lambda: None)
    watch.seconds.update({"linears": 3, "pack": 1})
    show(watch, 2, 4.0, Console(width=200))
    printed = capsys.readouterr().out
    assert printed.index("linears") < printed.index("pack")
    assert "the engine's own share is 25.0%, 500000 us per step" in printed
