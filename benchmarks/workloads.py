"""Deterministic workloads: prompts as token ids, and how many tokens each answer has.

The same name, count, seed and scale give the same requests on every machine: `random.Random` is
stable across Python versions. Token ids stay in [364, 4096), past Gemma's control and byte tokens
and inside every checkpoint's vocabulary; each prompt begins with <bos>. An engine has to ignore
end tokens and to generate exactly `output_len` tokens, greedily.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

from model.errors import GemmarayError

from .spec import Request

FIRST_ID, LAST_ID, BOS = 364, 4096, 2


class WorkloadError(GemmarayError):
    """A workload that does not exist, or is not written as NAME:COUNT[:SCALE]."""


class _Draw:
    """The random stream of one workload; every length is multiplied by `scale`."""

    def __init__(self, name: str, seed: int, scale: float) -> None:
        self.rng = random.Random(f"{name}/{seed}")
        self._scale = scale

    def scaled(self, length: int) -> int:
        return max(2, round(length * self._scale))

    def ids(self, count: int) -> list[int]:
        return [self.rng.randrange(FIRST_ID, LAST_ID) for _ in range(count)]

    def prompt(self, count: int) -> list[int]:
        return [BOS, *self.ids(count - 1)]

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(self.scaled(low), self.scaled(high))

    def lognormal(self, mean: float, sigma: float, low: int, high: int) -> int:
        mu = math.log(mean * self._scale) - sigma * sigma / 2
        return max(low, min(self.scaled(high), round(self.rng.lognormvariate(mu, sigma))))


def _uniform(draw: _Draw) -> Iterator[Request]:
    """128 in, 64 out."""
    while True:
        yield Request(draw.prompt(draw.scaled(128)), draw.scaled(64))


def _sharegpt(draw: _Draw) -> Iterator[Request]:
    """Long tails as in chat logs: in with mean 220 and out with mean 190, each in 4..1024."""
    while True:
        prompt_len = draw.lognormal(220, 0.9, 4, 1024)
        output_len = draw.lognormal(190, 0.9, 4, 1024)
        yield Request(draw.prompt(prompt_len), output_len)


def _shared_prefix(draw: _Draw) -> Iterator[Request]:
    """512 in that all share and 32 of each one's own, 16 out."""
    prefix = draw.prompt(draw.scaled(512))
    while True:
        yield Request(prefix + draw.ids(draw.scaled(32)), draw.scaled(16))


def _classify(draw: _Draw) -> Iterator[Request]:
    """128..512 in, 1 out."""
    while True:
        yield Request(draw.prompt(draw.between(128, 512)), 1)


def _random(draw: _Draw) -> Iterator[Request]:
    """1024 in, 128 out: what vLLM's `bench throughput` calls random."""
    while True:
        yield Request(draw.prompt(draw.scaled(1024)), draw.scaled(128))


def _mixed(draw: _Draw) -> Iterator[Request]:
    """100..1024 in and 100..1024 out: what nano-vllm and mini-sglang publish (256 requests)."""
    while True:
        yield Request(draw.prompt(draw.between(100, 1024)), draw.between(100, 1024))


def _long(draw: _Draw) -> Iterator[Request]:
    """6144 in, 1024 out: the answer leaves Gemma 2's window of 4096 behind."""
    while True:
        yield Request(draw.prompt(draw.scaled(6144)), draw.scaled(1024))


KINDS: dict[str, Callable[[_Draw], Iterator[Request]]] = {
    "uniform": _uniform,
    "sharegpt": _sharegpt,
    "shared-prefix": _shared_prefix,
    "classify": _classify,
    "random": _random,
    "mixed": _mixed,
    "long": _long,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of workload, how many requests of it, and a factor on all lengths."""

    name: str
    count: int
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read NAME:COUNT[:SCALE].

        Raises:
            WorkloadError: it is something else.
        """
        name, _, numbers = text.partition(":")
        count, _, scale = numbers.partition(":")
        try:
            workload = cls(name, int(count), float(scale or 1.0))
        except ValueError:
            raise WorkloadError(
                f"workload {text!r}: write NAME:COUNT or NAME:COUNT:SCALE, as in sharegpt:48:0.5"
            ) from None
        if name not in KINDS:
            raise WorkloadError(f"workload {text!r}: there is no {name!r}, only {', '.join(KINDS)}")
        if workload.count < 1 or not 0.0 < workload.scale < math.inf:
            raise WorkloadError(f"workload {text!r}: count and scale must be above zero")
        return workload

    def __str__(self) -> str:
        scale = "" if self.scale == 1.0 else f":{self.scale:g}"
        return f"{self.name}:{self.count}{scale}"

    def requests(self, seed: int = 0) -> list[Request]:
        """Draw the requests."""
        draw = _Draw(self.name, seed, self.scale)
        return list(islice(KINDS[self.name](draw), self.count))

    def warm_up(self, seed: int = 0) -> list[Request]:
        """Draw a few requests of the same kind that are none of `requests`."""
        draw = _Draw(self.name, seed + 1000, self.scale)
        return list(islice(KINDS[self.name](draw), min(4, self.count)))
