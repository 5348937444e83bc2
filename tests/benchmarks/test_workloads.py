import hashlib
import json

import pytest

from benchmarks.workloads import BOS, FIRST_ID, KINDS, LAST_ID, Workload, WorkloadError

# Figures of different days and machines are compared: the requests may never change.
GOLDENS = {
    "uniform:64": "ce5f0f3d810bcdb2",
    "sharegpt:48:0.5": "fcb5e83377281beb",
    "shared-prefix:32": "dd0bb624d58ad3a6",
    "classify:32": "4874c2a0e4b2b9e2",
}


@pytest.mark.parametrize(("text", "digest"), GOLDENS.items())
def test_requests_are_the_same_everywhere(text: str, digest: str) -> None:
    requests = Workload.parse(text).requests()
    document = json.dumps([[request.prompt, request.output_len] for request in requests])
    assert hashlib.sha256(document.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_keeps_to_its_promises(name: str) -> None:
    workload = Workload(name, 5, 0.1)
    requests = workload.requests()
    assert len(requests) == 5
    assert requests == workload.requests()
    assert requests != workload.requests(seed=1)
    for request in requests:
        assert request.prompt[0] == BOS
        assert all(FIRST_ID <= token < LAST_ID for token in request.prompt[1:])
        assert request.output_len >= 1
    warm_up = workload.warm_up()
    assert len(warm_up) == 4
    assert not any(request in requests for request in warm_up)


def test_a_longer_workload_begins_with_the_shorter_one() -> None:
    assert Workload("mixed", 9, 0.1).requests()[:4] == Workload("mixed", 4, 0.1).requests()


def test_a_workload_is_written_as_it_is_read() -> None:
    for text in ("uniform:64", "sharegpt:48:0.5"):
        assert str(Workload.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["uniform", "uniform:x", "nosuch:4", "uniform:0", "uniform:4:0", "uniform:4:inf", ""]
)
def test_a_faulty_workload_is_refused(text: str) -> None:
    with pytest.raises(WorkloadError, match="workload"):
        Workload.parse(text)
