"""Rows 8 and 9 of the parity table through the engine, and label spans on text."""

from typing import Any

import pytest
import torch

from model.pooling import last_real_position
from model.tasks import TagTokens
from tests.model.helpers import Pair, flat_logits, oracle, oracle_logits, random_ids
from tests.model.ways import Way, every_way

from .conftest import LABELS, MakeEngine, settings_of

REAL = random_ids(11, seed=3)
PAD = 0
PROMPTS = {
    "no pad": REAL,
    "right": [*REAL, PAD, PAD, PAD],
    "left": [PAD, PAD, *REAL],
    "middle": [*REAL[:5], PAD, PAD, *REAL[5:], PAD],
    "all pad": [PAD] * 6,
    "single": [7],
    "several chunks": random_ids(70, seed=4),
    # Enough values for a mean.
    **{f"{count} tokens": random_ids(count, seed=count) for count in range(20, 32)},
}


@every_way
def test_row_8_sequence_classification(make: MakeEngine, way: Way, record_property: Any) -> None:
    pair = Pair(way, "Gemma2ForSequenceClassification", seed=5, qk_scale=2.0, **LABELS)
    engine = make(**settings_of(way, "classifier"))
    prompts = [*PROMPTS.values()]
    for turn in ("computed", "partly remembered"):
        outputs = engine.classify(prompts)
        logits = torch.tensor([output.logits for output in outputs])
        pair.check(
            record_property,
            f"row 8, {turn}",
            logits,
            lambda model: flat_logits(model, prompts),
        )
        for output, row in zip(outputs, logits, strict=True):
            scores = [score.score for score in output.scores]
            assert scores == pytest.approx(row.softmax(-1).tolist(), abs=1e-5)
            assert output.label == LABELS["id2label"][int(row.argmax())]
    assert engine.stats.prefix_hit_tokens > 0


@every_way
def test_row_9_token_classification(make: MakeEngine, way: Way, record_property: Any) -> None:
    pair = Pair(way, "Gemma2ForTokenClassification", seed=5, qk_scale=2.0, **LABELS)
    engine = make(**settings_of(way, "tagger"))
    prompt = random_ids(75, seed=6)
    engine.add_request(prompt, [TagTokens("x" * 75, tuple((n, n + 1) for n in range(75)))])
    outputs = []
    while engine.has_work:
        outputs += [update.output for update in engine.step() if update.output]
    result = outputs[0].results[0]
    pair.check(
        record_property,
        "row 9, probabilities",
        torch.tensor(result.token_scores),
        lambda model: oracle_logits(model, prompt).float().softmax(-1).max(-1).values,
    )
    if way.exact:
        best = oracle_logits(pair.exact, prompt).argmax(-1).tolist()
        assert list(result.token_labels) == [LABELS["id2label"][i] for i in best]


def test_tags_are_spans_of_the_text(make: MakeEngine) -> None:
    text = "Grüße aus Zürich 🙂, said Ada Lovelace."
    output = make("text-tagger").tag_tokens([text])[0]
    assert output.entities
    for entity in output.entities:
        assert text[entity.start : entity.end] == entity.text == entity.text.strip()


def test_embeddings_pool_the_final_hidden_states(make: MakeEngine) -> None:
    reference = oracle(seed=5, qk_scale=2.0)
    prompt = random_ids(41)
    with torch.no_grad():
        hidden = reference.model(torch.tensor([prompt])).last_hidden_state[0]
    engine = make()
    for pooling, expected in {"last": hidden[-1], "mean": hidden.mean(0)}.items():
        raw = engine.embed([prompt], pooling=pooling, normalize=False)[0].embedding  # type: ignore[arg-type]
        torch.testing.assert_close(torch.tensor(raw), expected, atol=1e-4, rtol=1e-4)
        unit = torch.tensor(engine.embed([prompt], pooling=pooling)[0].embedding)  # type: ignore[arg-type]
        torch.testing.assert_close(unit, expected / expected.norm(), atol=1e-4, rtol=1e-4)


def test_prompt_logprobs(make: MakeEngine) -> None:
    reference = oracle(seed=5, qk_scale=2.0)
    prompt = random_ids(50)
    with torch.no_grad():
        logprobs = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    expected = [logprobs[i, token].item() for i, token in enumerate(prompt[1:])]
    output = make().logprobs([prompt, [5]])
    assert output[0].logprobs[0] is None
    assert list(output[0].logprobs[1:]) == pytest.approx(expected, abs=1e-4)
    assert output[1].logprobs == (None,)


@pytest.mark.parametrize(
    ("tokens", "pad", "position"),
    [([1, 2, 0], 0, 1), ([0, 0], 0, 0), ([5], 0, 0), ([1, 0], None, 1), ([0, 3, 0, 4, 0], 0, 3)],
)
def test_last_real_position(tokens: list[int], pad: int | None, position: int) -> None:
    assert last_real_position(tokens, pad) == position
