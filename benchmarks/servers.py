"""HTTP servers of several engines, each started as its users start it, on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.launch import REPOSITORY, prepare
from benchmarks.spec import OURS, BenchmarkError, Spec
from benchmarks.worker import LOGS

START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 30.0


@contextlib.contextmanager
def running(spec: Spec, home: Path) -> Iterator[str]:
    """Have a server run inside the block; gives its URL.

    Args:
        spec: the engine; requests call its model by `model_name`.
        home: where peers are installed.

    Raises:
        BenchmarkError: it is not installed, or does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = prepare(spec, home)
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"server-{spec.label.replace(' ', '-')}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            _command(spec, Path(launch.interpreter).parent, port),
            cwd=REPOSITORY,
            env=launch.environ() | _beside(spec, home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, path)
            yield url
        finally:
            _end(process)


def model_name(spec: Spec) -> str:
    """What requests to a server call the model."""
    return str(spec.checkpoint) if spec.name == "transformers" else spec.checkpoint.name


def _beside(spec: Spec, home: Path) -> dict[str, str]:
    """Let `transformers serve` find what it needs and we do not, and have as many threads."""
    if spec.name != "transformers":
        return {}
    folder = home.resolve() / "transformers"
    return {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(spec.threads)}


def _command(spec: Spec, programs: Path, port: int) -> list[str]:
    folder, name = str(spec.checkpoint), spec.checkpoint.name
    listen = ["--port", str(port)]
    extra = [str(word) for item in spec.settings.items() for word in item if word != ""]
    if spec.name == OURS:
        ours = [str(Path(sys.executable).with_name("gemmaray")), "serve", "--model", folder]
        if spec.device == "cpu":
            ours += ["--cpus", str(spec.threads)]
        return [*ours, "--name", name, "--dtype", spec.dtype, *listen, *extra]
    if spec.name == "vllm":
        vllm = [str(programs / "python"), "-m", "vllm.entrypoints.openai.api_server"]
        vllm += ["--model", folder, "--served-model-name", name]
        return [*vllm, "--dtype", spec.dtype, "--host", "127.0.0.1", *listen, *extra]
    if spec.name == "transformers":
        theirs = [str(Path(sys.executable).with_name("transformers")), "serve", folder]
        return [*theirs, "--dtype", spec.dtype, "--device", spec.device, *listen, *extra]
    raise BenchmarkError(f"{spec.name} is not compared as a server")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if _is_up(url):
            return
        if process.poll() is not None:
            raise BenchmarkError(f"the server ended with status {process.returncode}: see {log}")
        time.sleep(0.5)
    raise BenchmarkError(f"the server did not come up in {START_TIMEOUT_S:.0f} s: see {log}")


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
