"""Row 3, short: a process that ends, or a disk that fails, right before one of its lines."""

import pytest

from .conftest import Chaos

pytestmark = pytest.mark.slow


def test_a_job_on_a_disk_survives_its_end_and_the_disks_failure_at_any_line(chaos: Chaos) -> None:
    for figures in chaos("failpoints", "--where=local", "--every=101"):
        assert figures["lines"] > 100
        # A failure can come where it does not matter, a kill can't.
        least = 1.0 if "SIGKILL" in figures["faults"] else 0.8
        assert sum(figures["faults"].values()) >= least * figures["trials"]
        assert (figures["lost"], figures["doubled"], figures["bad_trials"]) == (0, 0, 0)


def test_a_job_on_s3_survives_its_end_at_any_line(chaos: Chaos) -> None:
    (figures,) = chaos("failpoints", "--where=s3", "--every=97")
    assert figures["faults"]["SIGKILL"] >= 0.9 * figures["trials"]
    assert (figures["lost"], figures["doubled"], figures["bad_trials"]) == (0, 0, 0)
