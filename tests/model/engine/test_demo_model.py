"""The parity table on the demo model, whose logits are peaked and whose prompts are real text."""

from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from model import Engine, EngineConfig, SamplingParams

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LM = EXAMPLES / "demo-model" / "causal-lm"
CLASSIFIER = EXAMPLES / "demo-model" / "classifier"
Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    table = pq.read_table(EXAMPLES / "packages.parquet")
    return table.take(list(range(0, table.num_rows, 24))).to_pylist()


@pytest.fixture(scope="module")
def chats(rows: list[dict[str, str]]) -> list[Messages]:
    ask = "Name the section of this Debian package.\n{package}: {synopsis}"
    return [[{"role": "user", "content": ask.format(**row)}] for row in rows]


@pytest.fixture(scope="module")
def ids(chats: list[Messages]) -> list[list[int]]:
    """The prompts as transformers renders and encodes them."""
    tokenizer = AutoTokenizer.from_pretrained(LM)
    return [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat in chats
    ]


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    kind = AutoModelForCausalLM if folder == LM else AutoModelForSequenceClassification
    return kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def engine(folder: Path, dtype: Any = "float32") -> Engine:
    settings = {"dtype": dtype, "threads": 1, "kv_cache_bytes": 256 << 20}
    return Engine(EngineConfig(checkpoint=str(folder), **settings))


def teacher_forced(model: Any, ids: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(torch.tensor([row])).logits[0].float() for row in ids])


def test_prompts_are_encoded_alike(chats: list[Messages], ids: list[list[int]]) -> None:
    tokenizer = engine(LM).tokenizer
    assert tokenizer is not None
    assert [tokenizer.encode_messages(chat) for chat in chats] == ids


def test_row_3_greedy_answers_and_long_continuations(
    chats: list[Messages], ids: list[list[int]]
) -> None:
    """Answers to their end, and 64 tokens through two windows of 32 with the ends ignored."""
    oracle = reference(LM)
    with engine(LM) as ours:
        answers = ours.generate(chats, SamplingParams(max_tokens=16))
        long = ours.generate(chats[:20], SamplingParams(max_tokens=64, ignore_eos=True))
    oracle.generation_config.eos_token_id = [1, 107]
    for row, answer in zip(ids, answers, strict=True):
        out = oracle.generate(torch.tensor([row]), max_new_tokens=16, do_sample=False)
        assert list(answer.token_ids) == out[0, len(row) :].tolist()
    oracle.generation_config.eos_token_id = None
    for row, answer in zip(ids[:20], long, strict=True):
        out = oracle.generate(torch.tensor([row]), max_new_tokens=64, do_sample=False)
        assert list(answer.token_ids) == out[0, len(row) :].tolist()
    print(f"\nrow 3, demo model: {len(ids)} answers and 20 x 64 tokens equal")


def test_row_1_log_probabilities(ids: list[list[int]]) -> None:
    oracle = teacher_forced(reference(LM), ids).log_softmax(-1)
    expected = oracle[
        torch.arange(len(oracle) - 1), torch.tensor(list(chain.from_iterable(ids)))[1:]
    ]
    with engine(LM) as ours:
        outputs = ours.logprobs(ids)
    at, worst = 0, 0.0
    for row, output in zip(ids, outputs, strict=True):
        values = torch.tensor(output.logprobs[1:])
        error = (values - expected[at : at + len(row) - 1]).abs().max().item()
        at, worst = at + len(row), max(worst, error)
    print(f"\nrow 1, demo model: max |Δ log p| = {worst:.1e}")
    assert worst < 1e-4


def test_row_6_bfloat16(ids: list[list[int]]) -> None:
    """Log-probabilities of the prompts: our error against float32 next to transformers' own."""
    exact = teacher_forced(reference(LM), ids).log_softmax(-1)
    theirs = teacher_forced(reference(LM, torch.bfloat16), ids).log_softmax(-1)
    at = torch.arange(len(exact) - 1), torch.tensor(list(chain.from_iterable(ids)))[1:]
    starts = torch.tensor([len(row) for row in ids]).cumsum(0)[:-1] - 1
    inside = torch.ones(len(exact) - 1, dtype=torch.bool).index_fill(0, starts, value=False)
    with engine(LM, "bfloat16") as ours:
        values = [value for output in ours.logprobs(ids) for value in output.logprobs[1:]]
    our_error = (torch.tensor(values) - exact[at][inside]).abs().mean().item()
    their_error = (theirs[at][inside] - exact[at][inside]).abs().mean().item()
    print(f"\nrow 6, demo model: ours / theirs = {our_error / their_error:.2f}")
    assert our_error <= 1.5 * their_error


def test_row_8_the_classifier(chats: list[Messages], ids: list[list[int]]) -> None:
    oracle = reference(CLASSIFIER)
    with engine(CLASSIFIER) as ours:
        outputs = ours.classify(chats)
    worst = 0.0
    with torch.no_grad():
        for row, output in zip(ids, outputs, strict=True):
            logits = oracle(torch.tensor([row])).logits[0]
            worst = max(worst, (torch.tensor(output.logits) - logits).abs().max().item())
            assert output.label == oracle.config.id2label[int(logits.argmax())]
    print(f"\nrow 8, demo model: max |Δ| = {worst:.1e}")
    assert worst < 1e-4


def test_label_scores(
    rows: list[dict[str, str]], chats: list[Messages], ids: list[list[int]]
) -> None:
    """Likelihoods of labels of one and of several tokens, against one full pass for each."""
    oracle = reference(LM)
    labels = ["libs", "education", "embedded", "games"]
    with engine(LM) as ours:
        outputs = ours.score_labels(chats[:8], labels)
        encoded = [ours.tokenizer.encode_continuation(label) for label in labels]  # type: ignore[union-attr]
    assert max(map(len, encoded)) > 1
    for row, output in zip(ids[:8], outputs, strict=True):
        for label, total in zip(encoded, output.logits, strict=True):
            logprobs = teacher_forced(oracle, [row + label]).log_softmax(-1)
            steps = zip(range(len(row) - 1, len(row) + len(label) - 1), label, strict=True)
            assert total == pytest.approx(sum(logprobs[at].tolist() for at in steps), abs=1e-4)


def test_it_answers_sensibly(rows: list[dict[str, str]], chats: list[Messages]) -> None:
    with engine(LM, "bfloat16") as ours:
        answers = ours.generate(chats, SamplingParams(max_tokens=12))
    right = sum(a.text == row["section"] for a, row in zip(answers, rows, strict=True))
    assert right / len(rows) > 0.65, "it was 79 % of the whole sample when it was made"
    assert all(answer.finish_reason == "stop" for answer in answers)
