"""Row 1, short: processes that are killed and stopped amid their commits."""

import pytest

from .conftest import Chaos

pytestmark = pytest.mark.slow


def test_no_row_is_lost_or_doubled_by_kills_and_zombies(chaos: Chaos) -> None:
    (figures,) = chaos("commit", "--trials=5", "--seed=1")
    assert figures["faults"]["SIGKILL"] >= 10
    assert figures["faults"]["zombies"] >= 3
    assert (figures["lost"], figures["doubled"], figures["bad_trials"]) == (0, 0, 0)
    assert figures["parts_changed"] == 0


def test_the_harness_finds_what_other_ways_to_commit_lose_and_double(chaos: Chaos) -> None:
    marker, in_place = chaos("controls", "--trials=100", "--until-bad", "--seed=1")
    assert marker["doubled"] > 0
    assert in_place["lost"] > 0
