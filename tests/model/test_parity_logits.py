"""Rows 1, 2, 4 and 7 of the parity table: our float32 model against transformers' eager one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .helpers import oracle, oracle_logits, ours, random_ids, report
from .pages import PagedModel

UNCAPPED: dict[str, Any] = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "capped": {},
    "uncapped": UNCAPPED,
    "sharp": {"qk_scale": 3.0},
    "sharp uncapped": {"qk_scale": 3.0, **UNCAPPED},
    "biases": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "one kv head": {"num_key_value_heads": 1},
    "as many kv heads": {"num_key_value_heads": 4},
    "three full, one sliding": {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 160000.0}},
    "window of one": {"sliding_window": 1},
    "all full": {"layer_types": ["full_attention"] * 4},
}


def difference(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_row_1_logits(variant: str, record_property: Any) -> None:
    reference = oracle(**VARIANTS[variant])
    model = ours(reference)
    ids = random_ids(150)
    got = model.logits(PagedModel(model).run(ids))
    found = difference(got, oracle_logits(reference, ids))
    report(record_property, "row 1", f"max |Δ| {variant}", found)
    assert found < 1e-4


def test_row_1_would_notice_a_missing_cap() -> None:
    capped = oracle(qk_scale=3.0)
    uncapped = oracle(qk_scale=3.0, **UNCAPPED)
    ids = random_ids(150)
    assert difference(oracle_logits(capped, ids), oracle_logits(uncapped, ids)) > 1e-2


W = 8


@pytest.mark.parametrize("length", [W - 1, W, W + 1, 5 * W + 3])
def test_row_2_window_edge(length: int, record_property: Any) -> None:
    reference = oracle(sliding_window=W)
    model = ours(reference)
    ids = random_ids(length)
    want = oracle_logits(reference, ids)
    ways = {
        "one shot": [length],
        "chunked": [3] * (length // 3) + ([length % 3] if length % 3 else []),
        "token by token": [1] * length,
    }
    for way, sizes in ways.items():
        found = difference(model.logits(PagedModel(model).run(ids, sizes)), want)
        report(record_property, "row 2", f"max |Δ| of {length} tokens, window {W}, {way}", found)
        assert found < 1e-4


@pytest.mark.parametrize("chunk", [[1] * 20, [12, 8], [20]])
def test_row_2_a_token_reaches_exactly_w_queries(chunk: list[int]) -> None:
    reference = oracle(num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=W)
    model = ours(reference)
    ids = random_ids(20)
    changed = [ids[0] + 1, *ids[1:]]
    before = PagedModel(model).run(ids, chunk)
    after = PagedModel(model).run(changed, chunk)
    differs = (before != after).any(-1).tolist()
    assert differs == [True] * W + [False] * (20 - W)


@pytest.mark.parametrize("chunk", [1, 5])
def test_row_2_keys_out_of_the_window_have_no_effect(chunk: int) -> None:
    """The page that the window's first key is on holds older keys: they are replaced by NaN."""
    model = ours(oracle(sliding_window=W))
    start = 3 * W + 2
    ids = random_ids(start + chunk)
    results = []
    for spoil in (False, True):
        driver = PagedModel(model, page_size=16)
        driver.run(ids[:start])
        if spoil:
            table = driver.tables[0, "sliding_attention"]
            dead = np.arange(table.first_key, start - W + 1) - table.first_key
            assert dead.size
            slots = np.array(table.pages)[dead // 16] * 16 + dead % 16
            for layer, kind in enumerate(model.config.layer_types):
                if kind == "sliding_attention":
                    for pages in driver.cache.layer(layer):
                        pages.flatten(0, 1)[slots] = torch.nan
        results.append(driver.step([(0, ids[start:])]))
    assert results[0].isfinite().all()
    assert torch.equal(*results)


def test_row_4_packed_batch_is_left_padded_batch_and_alone(record_property: Any) -> None:
    reference = oracle()
    model = ours(reference)
    lengths = [1, 5, 8, 9, 23, 40]
    prompts = [random_ids(n, seed=n) for n in lengths]
    width = max(lengths)
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batched = oracle_logits(reference, padded, attention_mask=mask, position_ids=positions)
    packed = model.logits(PagedModel(model).step(list(enumerate(prompts))))
    found = 0.0
    for prompt, left_padded, got in zip(
        prompts, batched, torch.split(packed, lengths), strict=True
    ):
        alone = oracle_logits(reference, prompt)
        for want in (alone, left_padded[width - len(prompt) :]):
            found = max(found, difference(got, want))
            assert got[-1].argmax() == want[-1].argmax()
    report(record_property, "row 4", "max |Δ|", found)
    assert found < 1e-4


def test_row_4_prefill_chunks_and_decodes_in_one_step(record_property: Any) -> None:
    """Sequences start, continue and decode in the same steps, some beyond the window."""
    reference = oracle()
    model = ours(reference)
    driver = PagedModel(model)
    plans = {0: [9, 1, 1, 1, 1], 1: [1, 1, 7, 1, 3], 2: [0, 30, 1, 1, 1], 3: [12, 12, 12, 12, 1]}
    ids = {name: random_ids(sum(sizes), seed=name) for name, sizes in plans.items()}
    got: dict[int, list[Tensor]] = {name: [] for name in plans}
    done = dict.fromkeys(plans, 0)
    for sizes in zip(*plans.values(), strict=True):
        work = []
        for name, size in zip(plans, sizes, strict=True):
            if size:
                work.append((name, ids[name][done[name] : done[name] + size]))
                done[name] += size
        parts = torch.split(driver.step(work), [len(new) for _, new in work])
        for (name, _), part in zip(work, parts, strict=True):
            got[name].append(part)
    found = max(
        difference(model.logits(torch.cat(got[name])), oracle_logits(reference, ids[name]))
        for name in plans
    )
    report(record_property, "row 4", "max |Δ| mixed steps", found)
    assert found < 1e-4


@pytest.mark.parametrize("qk_scale", [1.0, 3.0])
def test_row_7_every_hidden_state(qk_scale: float, record_property: Any) -> None:
    reference = oracle(qk_scale=qk_scale)
    model = ours(reference)
    ids = random_ids(60)
    got: list[Tensor] = []
    PagedModel(model).step([(0, ids)], collect=got)
    with torch.no_grad():
        want = reference(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    assert len(got) == len(want) == model.config.num_hidden_layers + 1
    relative = [difference(g, w[0]) / float(w.abs().max()) for g, w in zip(got, want, strict=True)]
    report(record_property, "row 7", f"max relative |Δ|, q and k x {qk_scale:g}", max(relative))
    assert max(relative) < 1e-4
