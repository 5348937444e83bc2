"""`gemmaray serve`, as somebody starts it, asks it and ends it."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.serve.access import add_key
from model import Engine, SamplingParams

from .conftest import FOLDERS, until

COMMAND = [sys.executable, "-m", "cluster", "serve"]
DEMO = ["--model", str(FOLDERS["demo"]), "--name", "demo"]
START_S = 120.0
ADAPTER = FOLDERS["demo"].parent / "adapters" / "upper"


@dataclass(frozen=True)
class Running:
    """A server, where it listens, and what it writes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    return path, add_key(path, "alice")


@contextmanager
def running(options: list[str], log: Path) -> Iterator[Running]:
    """Have a server run inside the block; its options begin with its port."""
    with log.open("wb") as stderr:  # a pipe that nobody empties would hold it up
        made = subprocess.Popen([*COMMAND, *DEMO, *options], stderr=stderr)
    port = int(options[1])

    def up() -> bool:
        assert made.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(up, START_S)
        yield Running(made, port, log)
    finally:
        made.kill()
        made.wait()


@pytest.fixture(scope="module")
def process(
    key_file: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("batches")
    options = ["--port", str(free_port()), "--api-key-file", str(key_file[0])]
    options += ["--adapters", f"upper={ADAPTER}"]
    with running([*options, "--batch-dir", str(folder)], folder.parent / "log.txt") as made:
        yield made


@pytest.fixture
def client(process: Running, key_file: tuple[Path, str]) -> httpx.Client:
    headers = {"authorization": f"Bearer {key_file[1]}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{process.port}", headers=headers, timeout=60)


def text_of(stream: httpx.Response) -> str:
    lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return "".join(re.findall(r'"text":"((?:[^"\\]|\\.)*)"', "".join(lines)))


pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_it_answers_streams_and_runs_batches(client: httpx.Client, offline: Engine) -> None:
    assert httpx.get(client.base_url.join("/v1/models")).status_code == 401
    params = SamplingParams(max_tokens=9, temperature=1.0, seed=1)
    asked: dict[str, Any] = {"model": "demo", "prompt": "lib", "max_tokens": 9, "seed": 1}
    wanted = offline.generate(["lib"], params)[0].text
    assert client.post("/v1/completions", json=asked).json()["choices"][0]["text"] == wanted
    with ThreadPoolExecutor(4) as pool:
        streams = pool.map(
            lambda _: client.post("/v1/completions", json={**asked, "stream": True}), range(8)
        )
        assert [text_of(stream) for stream in streams] == [wanted] * 8
    line = '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "demo"'
    line += ', "prompt": "lib", "max_tokens": 9, "seed": 1}}\n'
    sent = client.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": "batch"})
    order = {"input_file_id": sent.json()["id"], "endpoint": "/v1/completions"}
    batch = client.post("/v1/batches", json={**order, "completion_window": "24h"}).json()["id"]
    until(lambda: client.get(f"/v1/batches/{batch}").json()["status"] == "completed", 60)
    told = client.get(f"/v1/batches/{batch}").json()["output_file_id"]
    (answer,) = client.get(f"/v1/files/{told}/content").text.splitlines()
    assert f'"text":{httpx.Response(200, json=wanted).text}' in answer.replace('": ', '":')


def test_an_adapter_is_a_model_online_and_in_batches(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in listed] == [("demo", None), ("upper", "demo")]
    question = "Name the section of this Debian package.\nlibssl-dev: headers of a library"
    body = {"model": "upper", "messages": [{"role": "user", "content": question}], "temperature": 0}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    answer = client.post(asked["url"], json=body).json()["choices"][0]["message"]["content"]
    assert answer == "LIBDEVEL"
    sent = client.post(
        "/v1/files",
        files={"file": ("a.jsonl", json.dumps(asked) + "\n")},
        data={"purpose": "batch"},
    )
    order = {"input_file_id": sent.json()["id"], "endpoint": asked["url"]}
    batch = client.post("/v1/batches", json={**order, "completion_window": "24h"}).json()["id"]
    until(lambda: client.get(f"/v1/batches/{batch}").json()["status"] == "completed", 60)
    told = client.get(f"/v1/batches/{batch}").json()["output_file_id"]
    (line,) = client.get(f"/v1/files/{told}/content").text.splitlines()
    response = json.loads(line)["response"]["body"]
    assert (response["model"], response["choices"][0]["message"]["content"]) == ("upper", answer)


def test_its_state_and_numbers_are_told(client: httpx.Client) -> None:
    def told() -> Any:
        return client.get("/status").json()["models"][0]

    until(lambda: told()["engines"] and told()["replicas"] == {"running": 1})
    text = client.get("/metrics").text
    assert 'gemmaray_first_token_seconds_count{model="demo"}' in text
    assert "gemmaray_batches_open" in text


def test_a_client_that_leaves_frees_its_place(client: httpx.Client) -> None:
    endless = {"model": "demo", "prompt": "x", "max_tokens": 8000, "ignore_eos": True}

    def running() -> int:
        engines = client.get("/status").json()["models"][0]["engines"]
        return sum(engine["running"] for engine in engines)

    with client.stream("POST", "/v1/completions", json={**endless, "stream": True}) as stream:
        lines = stream.iter_lines()  # kept: it closes the connection when it is let go
        next(lines)
        until(lambda: running() == 1)
    until(lambda: running() == 0, 3)


def test_a_port_that_is_taken_is_said_at_once(process: Running, key_file: tuple[Path, str]) -> None:
    options = ["--port", str(process.port), "--api-key-file", str(key_file[0])]
    refused = subprocess.run(
        [*COMMAND, *DEMO, *options], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("gemmaray: error: can't listen on 127.0.0.1:")


def test_it_ends_when_what_it_was_asked_is_answered(client: httpx.Client, process: Running) -> None:
    """The last test: nobody is let in any more while a stream goes on to its end."""
    made, port = process.process, process.port
    children = psutil.Process(made.pid).children(recursive=True)
    long = {"model": "demo", "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/completions", json=long) as stream:
        lines = stream.iter_lines()
        next(lines)
        made.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert made.wait(60) == 0
    errors = process.log.read_text()
    assert "ending: requests in flight are answered first" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=20)[1]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Without waiting for the stream, which would go on for minutes."""
    with running(["--port", str(free_port())], tmp_path / "log.txt") as server:
        endless = {"model": "demo", "prompt": "x", "max_tokens": 8000, "ignore_eos": True}
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        many = {**endless, "n": 64, "stream": True}
        with httpx.stream("POST", url, json=many, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            until(lambda: "ending" in server.log.read_text())
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(20) == 130
        assert "Traceback" not in server.log.read_text()


def test_what_is_wrong_with_a_model_is_one_line() -> None:
    command = [*COMMAND, *DEMO, "--port", str(free_port()), "--tensor-parallel", "3"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(
        "gemmaray: error: the models can't be served: "
    )
    assert "Traceback" not in refused.stderr
