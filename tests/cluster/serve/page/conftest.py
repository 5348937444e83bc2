"""A real Chromium, and tabs that are watched: what they ask for, and what the browser says."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from actors.calls import (
    Added,
    Begun,
    Call,
    Card,
    Ended,
    EndpointStats,
    Event,
    Failure,
    Piece,
    Prompt,
    PromptAnswer,
    Tokens,
)
from cluster.serve.backend import BackendState, ReplicaStats
from model.chat import SystemPolicy
from model.outputs import TokenDelta, TokenLogprob

# The wait for what should come at once, in milliseconds, on a machine that is busy with others.
PATIENCE_MS = 20_000
STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@dataclass
class Tab:
    """A page of a server, and all that it did."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("request", self._asked)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.set_default_timeout(PATIENCE_MS)

    def check(self, expected: Collection[int]) -> None:
        """Nothing was asked of others, and the browser found no fault, CSP included."""
        origins = {
            urlsplit(url)._replace(path="", query="", fragment="").geturl() for url in self.requests
        }
        assert origins <= {self.url}
        assert not self.complaints
        assert set(self.refusals) <= set(expected)

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        refused = STATUS.match(message.text)
        if refused:
            self.refusals.append(int(refused[1]))
        elif message.type in {"error", "warning"}:
            self.complaints.append(message.text)


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(chromium: Browser) -> Iterator[OpenTab]:
    """open_tab(url, "/#chat", refusals={401}, **context): checked when the test is over."""
    with ExitStack() as stack:

        @contextmanager
        def opened(url: str, path: str, refusals: Collection[int], context: Any) -> Iterator[Tab]:
            with chromium.new_context(**context) as made:
                tab = Tab(made.new_page(), url)
                tab.watch()
                tab.page.goto(f"{url}{path}")
                yield tab
                tab.check(refusals)

        def open_one(
            url: str, path: str = "/", refusals: Collection[int] = (), **context: Any
        ) -> Tab:
            return stack.enter_context(opened(url, path, refusals, context))

        yield open_one


class Scripted:
    """A language model that streams what it was told to, one token for each piece."""

    def __init__(
        self, pieces: Sequence[str], end: Event | None = None, system: SystemPolicy = "reject"
    ) -> None:
        self.pieces = pieces
        self.end = end or Ended(0, 1)
        self.system = system
        self.calls: list[Call] = []
        self.counters = {"prompt_tokens": 0, "output_tokens": 0}

    async def describe(self) -> Card:
        return Card("causal_lm", 100, 10, chat=True, loaded=0, system=self.system)

    async def state(self) -> BackendState:
        stats = EndpointStats(
            running=3, waiting=4, finished=0, cache_pages_used=1, cache_pages_total=4,
            prefix_hits=1, prefix_lookups=2, **self.counters,
        )  # fmt: skip
        return BackendState(
            {"running": 2, "starting": 1}, 7, (ReplicaStats("r1", stats, time.monotonic()),)
        )

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        self.calls.append(call)
        return Failure("request", "<b>no</b> answer")

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        self.calls.append(call)
        yield [Begun(None)]
        for number, text in enumerate(self.pieces):
            pieces: Mapping[int, Piece] = {number: Piece(text.encode(), in_text=True)}
            logprobs = (TokenLogprob(number, -1.0, ((number, -1.0),)),)
            yield [Added(0, TokenDelta(0, (number,), text, logprobs), pieces)]
        yield [self.end]

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        return Failure("request", "no")

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        return Failure("request", "no")
