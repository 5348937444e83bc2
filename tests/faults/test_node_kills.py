"""Row 5, short: a cluster of three nodes that loses a worker, a node and its head."""

import pytest

from .conftest import Chaos


@pytest.mark.slow
def test_no_row_is_lost_or_doubled_by_the_loss_of_workers_and_nodes(chaos: Chaos) -> None:
    (figures,) = chaos("nodes", "--trials=3", "--rows=3000", "--seed=1")
    assert figures["faults"] == {"worker": 1, "node": 1, "head": 1}
    assert (figures["lost"], figures["doubled"], figures["rows_failed"]) == (0, 0, 0)
