"""Jobs sent to a real cluster, with a token, through the command: as a person does it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
TOKEN = "0123456789abcdef" * 2
START_S = 60.0
PART_S = 150.0


@dataclass(frozen=True)
class Cluster:
    """A Ray head with a dashboard, which asks for a token."""

    url: str

    def gemmaray(
        self, *arguments: str, token: str = TOKEN, url: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the command as from another machine: it knows the URL and a token."""
        environment = {
            **without_ray(),
            "PYTHONPATH": str(ROOT),
            "RAY_API_SERVER_ADDRESS": url or self.url,
            "RAY_AUTH_TOKEN": token,
        }
        return subprocess.run(
            [sys.executable, "-m", "cluster", *arguments],
            cwd="/", env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def status(self, job: str) -> dict[str, Any]:
        finished = self.gemmaray("status", job, "--address", self.url, "--json")
        assert finished.returncode == 0, finished.stderr
        return dict(json.loads(finished.stdout))


def without_ray() -> dict[str, str]:
    """The environment, without what other tests and this process's Ray put into it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start Ray as on a head node. Its workers have our packages from the wheel alone."""
    # The names of Ray's sockets are long, and so are those of pytest's folders.
    folder = tmp_path_factory.mktemp("ray")
    short = Path("/tmp", f"gr{os.getpid()}")
    short.symlink_to(folder)
    dashboard, client, agent = free_ports(3)
    environment = {
        **without_ray(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    environment.pop("PYTHONPATH", None)
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--port=0"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", "--num-cpus=4"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={short}/ray"),
        f"--object-store-memory={256 << 20}",
    ]
    with (folder / "start.log").open("w") as log:
        head = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{url}/api/version", head)
        yield Cluster(url)
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        short.unlink()


def free_ports(number: int) -> list[int]:
    """Find ports above those that Ray gives its workers."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(url: str, head: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert head.poll() is None, "ray start failed"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it asks for a token, so all of it is there
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the dashboard does not come up")


def write_job(folder: Path, **changes: Any) -> Path:
    """Write a job over the demo's rows and model."""
    values = {
        "input": str(ROOT / "examples" / "packages.parquet"),
        "output": str(folder / "out"),
        "model": str(ROOT / "examples" / "demo-model" / "causal-lm"),
        "prompt": "Name the section of this Debian package.\n{package}: {synopsis}",
        "keep": ["package"],
        "limit": 64,
        "tasks": [{"generate": {"max_tokens": 4}}],
        "resources": {"replicas": 1},
        **changes,
    }
    path = folder / "sections.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_job_runs_on_the_cluster_and_again(cluster: Cluster, tmp_path: Path) -> None:
    path = write_job(tmp_path)
    first = cluster.gemmaray("submit", str(path), "--follow")
    assert first.returncode == 0, first.stdout + first.stderr
    job = first.stdout.splitlines()[0]
    assert first.stderr.endswith(f"{job}: succeeded\n")
    assert "rows     64 rows, 0 errors" in first.stdout
    assert "{synopsis}" not in first.stdout
    assert TOKEN not in first.stdout + first.stderr
    assert pq.read_table(tmp_path / "out").num_rows == 64
    verified = cluster.gemmaray("verify", str(tmp_path / "out"))
    assert verified.returncode == 0, verified.stdout

    logs = cluster.gemmaray("logs", job).stdout
    assert "rows     64 rows, 0 errors" in logs
    again = cluster.gemmaray("submit", str(path), "--follow")
    assert again.returncode == 0, again.stdout
    assert again.stdout.splitlines()[0] == job.removesuffix("1") + "2"
    assert "(64 were there already)" in again.stdout
    assert pq.read_table(tmp_path / "out").num_rows == 64
    listed = json.loads(cluster.gemmaray("jobs", "--json").stdout)
    ours = [entry for entry in listed if entry["output"] == str(tmp_path / "out")]
    assert [(entry["status"], entry["attempt"]) for entry in ours] == [
        ("succeeded", 1), ("succeeded", 2),
    ]  # fmt: skip


def test_a_cancelled_job_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    tasks = [{"generate": {"max_tokens": 96, "ignore_eos": True}}]
    path = write_job(tmp_path, limit=800, unit_rows=20, tasks=tasks)
    submitted = cluster.gemmaray("submit", str(path))
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    joined = cluster.gemmaray("submit", str(path))
    assert joined.stdout.strip() == job

    wait_for_parts(tmp_path / "out", 3)
    cancelled = cluster.gemmaray("cancel", job)
    assert cancelled.stdout.startswith(f"{job}: stopped"), cancelled.stderr
    assert cluster.status(job)["status"] == "stopped"
    assert "gemmaray: interrupted with " in cluster.gemmaray("logs", job).stdout
    assert not (tmp_path / "out" / "_SUCCESS").exists()

    resumed = cluster.gemmaray("submit", str(path), "--follow")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "were there already)" in resumed.stdout
    verified = cluster.gemmaray("verify", str(tmp_path / "out"))
    assert verified.returncode == 0, verified.stdout
    assert pq.read_table(tmp_path / "out").num_rows == 800


def wait_for_parts(output: Path, number: int) -> None:
    end = time.monotonic() + PART_S
    while len(list(output.glob("*.parquet"))) < number:
        assert time.monotonic() < end, "no parts"
        time.sleep(0.1)


def test_a_job_that_cannot_run_ends_as_it_would_here(cluster: Cluster, tmp_path: Path) -> None:
    path = write_job(tmp_path, keep=["nothing"])
    finished = cluster.gemmaray("submit", str(path), "--follow")
    assert finished.returncode == 2
    job = finished.stdout.splitlines()[0]
    assert "\ngemmaray: error: " in finished.stdout
    assert "Traceback" not in finished.stdout
    assert "nothing" in cluster.status(job)["message"]


def test_a_wrong_token_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    finished = cluster.gemmaray("jobs", token="f" * 32)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith(f"gemmaray: error: {cluster.url} refuses the token")
    assert finished.stderr.count("\n") == 1


def test_no_token_is_one_line(cluster: Cluster) -> None:
    finished = cluster.gemmaray("jobs", token="")
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"gemmaray: error: {cluster.url} wants a token")
    assert finished.stderr.count("\n") == 1


def test_an_address_where_nobody_listens_is_one_line(cluster: Cluster) -> None:
    finished = cluster.gemmaray("jobs", url="http://127.0.0.1:9")
    assert finished.returncode == 2
    assert finished.stderr.startswith("gemmaray: error: no Ray cluster can be reached at http")
    assert finished.stderr.count("\n") == 1


def test_an_unknown_job_is_one_line(cluster: Cluster) -> None:
    for command in ("logs", "cancel"):
        finished = cluster.gemmaray(command, "nobody")
        assert finished.returncode == 2
        assert "knows no job nobody" in finished.stderr
        assert finished.stderr.count("\n") == 1


def test_the_doctor_sees_the_cluster(cluster: Cluster) -> None:
    finished = cluster.gemmaray("doctor", "--address", cluster.url, "--json")
    found = {item["check"]: item for item in json.loads(finished.stdout)}
    assert found["access"]["state"] == "ok", found["access"]
    assert found["ray"]["text"].endswith(", on the cluster as well")
    without = cluster.gemmaray("doctor", "--json", token="")
    found = {item["check"]: item for item in json.loads(without.stdout)}
    assert without.returncode == 1
    assert found["access"]["state"] == "problem"
