"""With native kernels an answer's bits depend on its prompt and seed alone, not on its company."""

import random
from typing import Any

import pytest

from model import Engine, SamplingParams
from tests.model.helpers import random_ids
from tests.model.native import needs_native

from .conftest import MakeEngine

Answer = tuple[tuple[int, ...], float]

STEM = random_ids(150, seed=7)
# Long and short ones, of which many share a beginning that is longer than the window, and pages.
PROMPTS = [
    *([*STEM[:140], 3 + n, *random_ids(1 + n % 9, seed=n)] for n in range(24)),
    *([*STEM[:37], 90 + n] for n in range(8)),
    *(random_ids(1 + 5 * n, seed=50 + n) for n in range(8)),
]


def sampling(number: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=6 + number % 5, temperature=1.0, seed=number, ignore_eos=True, logprobs=0
    )


def answers(engine: Engine, order: list[int], at_once: int) -> dict[int, Answer]:
    """Answer so many prompts at once, in an order."""
    found: dict[int, Answer] = {}
    for start in range(0, len(order), at_once):
        numbers = order[start : start + at_once]
        outputs = engine.generate([PROMPTS[n] for n in numbers], [sampling(n) for n in numbers])
        for number, output in zip(numbers, outputs, strict=True):
            found[number] = (output.token_ids, output.cumulative_logprob)
    return found


@needs_native
@pytest.mark.parametrize("page_size", [4, 16, 24])
def test_answers_have_the_same_bits_in_any_company(make: MakeEngine, page_size: int) -> None:
    def engine(**changes: Any) -> Engine:
        kernels = {"dtype": "bfloat16", "kernels": "native", "attention": "native"}
        return make("lm-32", page_size=page_size, **kernels, **changes)

    numbers = list(range(len(PROMPTS)))
    shuffled = random.Random(page_size).sample(numbers, len(numbers))
    alone = answers(engine(prefix_caching=False, max_batch_tokens=256), numbers, 1)
    assert len({tokens for tokens, _ in alone.values()}) > len(PROMPTS) / 2
    for company in (
        answers(engine(), numbers, len(numbers)),
        answers(engine(max_batch_tokens=512), numbers, len(numbers)),
        answers(engine(max_batch_tokens=17, threads=2), shuffled, 11),
        answers(engine(schedule="fcfs", max_sequences=3), shuffled, len(numbers)),
        answers(engine(prefix_caching=False, threads=2), shuffled, len(numbers)),
    ):
        assert company == alone
