import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import s3fs

from .servers import ROOT, s3_environment, s3_server

Chaos = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def chaos() -> Chaos:
    """Run the harness in a process of its own, which may fork, and give its figures."""

    def run(*arguments: str) -> list[dict[str, Any]]:
        finished = subprocess.run(
            [sys.executable, "-m", "tests.faults.chaos", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        print(finished.stderr)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return [json.loads(line) for line in finished.stdout.splitlines()]

    return run


@pytest.fixture(scope="session")
def s3_process() -> Iterator[str]:
    """An S3 server in a process of its own; gives its endpoint."""
    with s3_server() as endpoint:
        yield endpoint


@contextmanager
def pointed_at(endpoint: str) -> Iterator[None]:
    """Lead this process's S3 clients to a server, and forget those that there are."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()
