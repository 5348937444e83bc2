"""Row 4, short: a job whose driver is killed amid its units."""

import pytest
import ray

from . import driver_kills

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_job_whose_driver_is_killed_gives_the_same_table() -> None:
    address = ray.get_runtime_context().gcs_address
    figures = driver_kills.run(600, 3, seed=1, address=address, unit_rows=8)
    assert figures["faults"]["SIGKILL"] == 3
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    assert figures["identical"]
    # What is redone was in flight: nothing that had its part when its driver started.
    assert figures["units_redone_that_were_there"] == 0
