"""Keys: what needs none is told by name, and prompts of one are kept apart from another's."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx
import openai
import pytest

from actors.calls import Call, Card, Event, Failure, Prompt, PromptAnswer, Tokens
from cluster.serve.access import KeyFileError, Keys, add_key, new_key
from cluster.serve.api import make_app
from cluster.serve.backend import BackendState

from .conftest import SOON, Serving

# Who comes with a browser gets so far without a key: to two pages and what they are made of.
OPEN = [
    "/",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/health",
    "/page/answering.js",
    "/page/api.js",
    "/page/app.js",
    "/page/base.css",
    "/page/chat.js",
    "/page/completion.js",
    "/page/docs.js",
    "/page/dom.js",
    "/page/icon.svg",
    "/page/key.js",
    "/page/labels.js",
    "/page/page.css",
    "/page/rates.js",
    "/page/settings.js",
    "/page/sse.js",
    "/page/state.js",
    "/page/tags.js",
    "/page/tokens.js",
    "/page/tokenview.js",
]


class Recorder:
    """A backend that notes what it is called with, and refuses everything."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def describe(self) -> Card:
        return Card("causal_lm", 10, 10, chat=True, loaded=0)

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        self.calls.append(call)
        return Failure("request", "no")

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        self.calls.append(call)
        yield [Failure("dead", "no")]

    async def state(self) -> BackendState:
        return BackendState({}, 0, ())

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        return Failure("request", "no")

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        return Failure("request", "no")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keys, str, str]:
    file = tmp_path / "keys.txt"
    first, second = add_key(file, "first"), add_key(file, "second")
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    return Keys.read(str(file)), first, second


def routes() -> list[tuple[str, str]]:
    """Every route that there is, and some that are not."""
    documented = make_app({}, None).openapi()["paths"]
    assert {"/v1/chat/completions", "/metrics", "/health"} <= documented.keys()
    assert not set(OPEN) & documented.keys() - {"/health"}
    found = [
        (path.replace("{model}", "m"), method.upper())
        for path, operations in documented.items()
        for method in operations
    ]
    closed = ["/openapi.json", "/docs/oauth2-redirect", "/docs/__init__.py", "/page/index.html"]
    lookalikes = [
        "/nothing",
        "/health/",
        "/healthy",
        "//health",
        "/v1/health",
        "/HEALTH",
        "//docs",
        "/docs/",
        "/page",
        "/page/",
        "/page/x.js",
        "/page/%2e%2e/status",
        "/page/..%2fmetrics",
        "/page/app.js/",
        "/docs/..%2fopenapi.json",
        "/index.html",
    ]
    return [*found, *((path, "GET") for path in [*OPEN, *closed, *lookalikes])]


def test_every_route_in_every_state_of_the_key(
    serving: Serving, keys: tuple[Keys, str, str]
) -> None:
    known, key, _ = keys
    served = serving({"m": Recorder()}, keys=known)
    states = {
        None: False,
        "": False,
        "Bearer": False,
        key: False,
        f"Basic {key}": False,
        f"Bearer {key[:-1]}": False,
        f"Bearer {key}x": False,
        f"Bearer {hashlib.sha256(key.encode()).hexdigest()}": False,
        "Bearer \N{PILE OF POO}": False,
        f"Bearer {key}": True,
        f"bearer   {key}": True,
    }
    with httpx.Client(timeout=SOON) as client:
        for path, method in routes():
            for state, good in states.items():
                headers = [] if state is None else [(b"authorization", state.encode())]
                reply = client.request(method, f"{served.url}{path}", headers=headers)
                let_in = good or path in OPEN
                assert (reply.status_code != 401) == let_in, (path, method, state)
                if not let_in:
                    assert reply.json()["error"]["code"] == "invalid_api_key"
                    assert reply.headers["www-authenticate"] == "Bearer"


def test_openais_client_is_told_what_it_expects(
    serving: Serving, keys: tuple[Keys, str, str]
) -> None:
    known, key, _ = keys
    served = serving({"m": Recorder()}, keys=known)
    with pytest.raises(openai.AuthenticationError):
        served.client("wrong").models.list()
    assert [model.id for model in served.client(key).models.list()] == ["m"]


def test_each_key_has_a_salt_of_its_own(serving: Serving, keys: tuple[Keys, str, str]) -> None:
    known, first, second = keys
    backend = Recorder()
    served = serving({"m": backend}, keys=known)
    for key in (first, second, first):
        for stream in (False, True):
            headers = {"authorization": f"Bearer {key}"}
            body = {"model": "m", "prompt": "x", "stream": stream}
            reply = served.post("/v1/completions", body, headers=headers)
            assert reply.status_code == (503 if stream else 400)
    one, again, two, _, three, _ = (call.salt for call in backend.calls)
    assert one == again == three != two
    assert len(one) == 32
    assert first.encode() not in one


def test_an_engine_that_died_is_unavailable(serving: Serving) -> None:
    served = serving({"m": Recorder()})
    reply = served.post("/v1/completions", {"model": "m", "prompt": "x", "stream": True})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("line", ["x", "name key", "name sha256:12", "a b sha256:" + "0" * 64])
def test_a_line_that_is_no_key_is_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# keys\n\n{new_key('x')[1]}\n{line}\n")
    with pytest.raises(KeyFileError, match="line 4 is not NAME") as raised:
        Keys.read(str(file))
    assert str(raised.value).startswith(f"{file}, line 4 is not NAME sha256:DIGEST; ")


def test_files_without_keys(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# none\n")
    for name in ("empty", "missing"):
        with pytest.raises(KeyFileError):
            Keys.read(str(tmp_path / name))
    with pytest.raises(KeyFileError, match="name"):
        new_key("a b")
