import importlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import s3fs
import torch
from hypothesis import settings

from tests.faults.servers import s3_environment


def pytest_configure() -> None:
    # An example takes longer where other processes are busy, which is no fault of the code.
    usual = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile("patient", usual, deadline=None)
    settings.load_profile("patient")
    # What a shell starts in the background ignores Ctrl-C, and so does what that starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Last, since others look at this process's children and ports, of which a cluster has many.
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@dataclass(frozen=True)
class Bucket:
    """An empty bucket on a server of our own, which this test's environment points to."""

    bucket: str
    fs: s3fs.S3FileSystem

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    # Imported by name here, because it takes a second that most test runs don't need.
    server = importlib.import_module("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(s3_endpoint: str) -> Iterator[None]:
    """One cluster for the whole session: starting it takes 5 to 15 seconds.

    Its workers reach the S3 server, since they inherit the environment that it is started in.
    """
    ray = importlib.import_module("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(s3_endpoint).items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=256 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    yield
    ray.shutdown()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    bucket = f"test-{uuid4().hex}"
    fs.mkdir(bucket)
    return Bucket(bucket, fs)
