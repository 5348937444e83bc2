"""Adapters against PEFT's own, in float32: merged, and beside the weights in a mixed batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import Engine, SamplingParams
from model.tasks import TagTokens
from tests.model.helpers import flat_logits, oracle_logits, random_ids

from .adapters import SHAPES, base, merged, save_adapter
from .conftest import MakeEngine

LABELS: dict[str, Any] = {"id2label": {0: "O", 1: "B-NAME", 2: "I-NAME"}}
PROMPTS = [random_ids(n, seed=n) for n in (3, 11, 1, 26, 8, 17)]
NEW = 12


def log_probabilities(engine: Engine, prompts: list[list[int]], **options: Any) -> Tensor:
    outputs = engine.logprobs(prompts, **options)
    return torch.tensor([value for output in outputs for value in output.logprobs[1:]])


def of_oracle(reference: Any, prompts: Sequence[list[int]]) -> Tensor:
    """The log-probability of each token of each prompt but the first."""
    found = []
    for ids in prompts:
        rows = oracle_logits(reference, ids).log_softmax(-1)[:-1]
        found.append(rows.gather(1, torch.tensor(ids[1:])[:, None])[:, 0])
    return torch.cat(found)


@torch.no_grad()
def greedy(reference: Any, ids: list[int]) -> tuple[int, ...]:
    for _ in range(NEW):
        ids = [*ids, int(oracle_logits(reference, ids)[-1].argmax())]
    return tuple(ids[-NEW:])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_merged_adapter_is_pefts_merge(make: MakeEngine, tmp_path: Path, shape: str) -> None:
    reference = base()
    reference.save_pretrained(tmp_path / "base")
    save_adapter(reference, tmp_path / "adapter", **SHAPES[shape])
    wanted = merged(reference, tmp_path / "adapter")
    engine = make(tmp_path / "base", adapter=str(tmp_path / "adapter"))
    got = log_probabilities(engine, PROMPTS)
    assert float((got - of_oracle(wanted, PROMPTS)).abs().max()) < 1e-4
    assert float((got - of_oracle(reference, PROMPTS)).abs().max()) > 0.1


def test_adapters_beside_each_other_are_pefts_own(make: MakeEngine, tmp_path: Path) -> None:
    reference = base()
    reference.save_pretrained(tmp_path / "base")
    oracles = {
        name: save_adapter(reference, tmp_path / name, seed=seed, **settings)
        for seed, (name, settings) in enumerate(SHAPES.items())
    }
    adapters = {name: str(tmp_path / name) for name in SHAPES}
    engine = make(tmp_path / "base", adapters=adapters)
    # Each prompt with each adapter and without, in turns, so that every step is mixed.
    names = [None, *SHAPES]
    pairs = [(prompt, name) for prompt in PROMPTS for name in names]
    prompts, chosen = [prompt for prompt, _ in pairs], [name for _, name in pairs]
    models = [reference if name is None else oracles[name] for name in chosen]
    got = log_probabilities(engine, prompts, adapter=chosen)
    wanted = [of_oracle(m, [p]) for m, p in zip(models, prompts, strict=True)]
    assert float((got - torch.cat(wanted)).abs().max()) < 1e-4
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    for turn in ("computed", "remembered"):
        outputs = engine.generate(prompts, params, adapter=chosen)
        for output, model, prompt in zip(outputs, models, prompts, strict=True):
            assert output.token_ids == greedy(model, prompt), turn
    assert engine.stats.prefix_hit_tokens > 0


@pytest.mark.parametrize(
    "architecture", ["Gemma2ForSequenceClassification", "Gemma2ForTokenClassification"]
)
def test_classification_heads(make: MakeEngine, tmp_path: Path, architecture: str) -> None:
    reference = base(architecture, **LABELS)
    reference.save_pretrained(tmp_path / "base")
    names = ["one", "two"]
    for seed, name in enumerate(names):
        save_adapter(reference, tmp_path / name, seed=seed)
    models = {name: merged(reference, tmp_path / name) for name in names}
    beside = make(tmp_path / "base", adapters={name: str(tmp_path / name) for name in names})
    chosen = [None, "two", "one", "two", None, "one"]
    got = scores(beside, architecture, chosen)
    for prompt, name, scored in zip(PROMPTS, chosen, got, strict=True):
        wanted = best(reference if name is None else models[name], architecture, prompt)
        assert scored == pytest.approx(wanted, abs=1e-4)
    alone = make(tmp_path / "base", adapter=str(tmp_path / "two"))
    got = scores(alone, architecture, [None] * len(PROMPTS))
    for prompt, scored in zip(PROMPTS, got, strict=True):
        assert scored == pytest.approx(best(models["two"], architecture, prompt), abs=1e-4)


def test_a_base_model_becomes_the_classifier_that_its_adapter_is(
    make: MakeEngine, tmp_path: Path
) -> None:
    base().save_pretrained(tmp_path / "base")
    architecture = "Gemma2ForSequenceClassification"
    classifier = base(architecture, num_labels=3)
    classifier.model.load_state_dict(base().model.state_dict())
    save_adapter(classifier, tmp_path / "adapter")
    wanted = merged(classifier, tmp_path / "adapter")
    engine = make(tmp_path / "base", adapter=str(tmp_path / "adapter"))
    assert engine.model_config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    outputs = engine.classify(PROMPTS)
    logits = torch.tensor([output.logits for output in outputs])
    assert torch.allclose(logits, flat_logits(wanted, PROMPTS), atol=1e-4)


def scores(engine: Engine, architecture: str, chosen: list[str | None]) -> list[list[float]]:
    """The logits of each prompt, or the probability of each token's label."""
    if "Sequence" in architecture:
        return [list(o.logits) for o in engine.classify(PROMPTS, adapter=chosen)]
    found: dict[str, list[float]] = {}
    for number, (prompt, name) in enumerate(zip(PROMPTS, chosen, strict=True)):
        places = tuple((n, n + 1) for n in range(len(prompt)))
        task = TagTokens("x" * len(prompt), places)
        engine.add_request(prompt, [task], request_id=str(number), adapter=name)
    while engine.has_work:
        for update in engine.step():
            if update.output:
                found[update.request_id] = list(update.output.results[0].token_scores)
    return [found[str(number)] for number in range(len(PROMPTS))]


def best(reference: Any, architecture: str, prompt: list[int]) -> list[float]:
    if "Sequence" in architecture:
        return oracle_logits(reference, [prompt])[0].tolist()
    return oracle_logits(reference, prompt).softmax(-1).max(-1).values.tolist()


def test_weights_are_merged_before_they_are_quantized(make: MakeEngine, tmp_path: Path) -> None:
    reference = base()
    reference.save_pretrained(tmp_path / "base")
    save_adapter(reference, tmp_path / "adapter")
    merged(reference, tmp_path / "adapter").save_pretrained(tmp_path / "merged")
    ours = make(tmp_path / "base", adapter=str(tmp_path / "adapter"), quantization="int8")
    whole = make(tmp_path / "merged", quantization="int8")
    got, wanted = log_probabilities(ours, PROMPTS), log_probabilities(whole, PROMPTS)
    # A rounding apart here and there: the sums were taken in another order.
    assert float((got - wanted).abs().mean()) < 1e-3


def test_adapters_stay_as_they_are_beside_quantized_weights(
    make: MakeEngine, tmp_path: Path
) -> None:
    reference = base()
    reference.save_pretrained(tmp_path / "base")
    adapted = save_adapter(reference, tmp_path / "adapter")
    adapters = {"one": str(tmp_path / "adapter")}
    engine = make(tmp_path / "base", adapters=adapters, quantization="int8")
    exact = of_oracle(adapted, PROMPTS)
    error = (log_probabilities(engine, PROMPTS, adapter="one") - exact).abs().mean()
    without = (of_oracle(reference, PROMPTS) - exact).abs().mean()
    assert float(error) < 0.1 * float(without)
