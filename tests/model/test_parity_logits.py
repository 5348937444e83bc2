"""Rows 1, 2, 4 and 7 of the parity table: our model, computed in every way, against transformers'.

What each way is held to: see `helpers.Pair`.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .helpers import Pair, flat_logits, oracle, oracle_logits, random_ids
from .ways import Way, every_way

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


@every_way
@pytest.mark.parametrize("variant", VARIANTS)
def test_row_1_logits(variant: str, way: Way, record_property: Any) -> None:
    pair = Pair(way, **VARIANTS[variant])
    ids = random_ids(150)
    got = pair.model.logits(pair.paged(num_pages=128).run(ids))
    pair.check(record_property, f"row 1, {variant}", got, lambda model: oracle_logits(model, ids))


def test_row_1_would_notice_a_missing_cap() -> None:
    capped = oracle(qk_scale=3.0)
    uncapped = oracle(qk_scale=3.0, **UNCAPPED)
    ids = random_ids(150)
    assert float((oracle_logits(capped, ids) - oracle_logits(uncapped, ids)).abs().max()) > 1e-2


W = 8


@every_way
@pytest.mark.parametrize("length", [W - 1, W, W + 1, 4 * W + 3])
def test_row_2_window_edge(length: int, way: Way, record_property: Any) -> None:
    pair = Pair(way, sliding_window=W)
    texts = [random_ids(length, seed=seed) for seed in range(3)]
    feeds = {
        "one shot": [length],
        "chunked": [3] * (length // 3) + ([length % 3] if length % 3 else []),
        "token by token": [1] * length,
    }
    for feed, sizes in feeds.items():
        got = pair.model.logits(pair.paged(num_pages=96).feed(texts, sizes)[-1])
        what = f"row 2, {length} tokens, window {W}, {feed}"
        pair.check(record_property, what, got, lambda model: flat_logits(model, texts))


@every_way
@pytest.mark.parametrize("chunk", [[1] * 20, [12, 8], [20]])
def test_row_2_a_token_reaches_exactly_w_queries(chunk: list[int], way: Way) -> None:
    pair = Pair(way, num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=W)
    ids = random_ids(20)
    changed = [ids[0] + 1, *ids[1:]]
    before = pair.paged(num_pages=32).run(ids, chunk)
    after = pair.paged(num_pages=32).run(changed, chunk)
    differs = (before != after).any(-1).tolist()
    assert differs == [True] * W + [False] * (20 - W)


@every_way
@pytest.mark.parametrize("chunk", [1, 5])
def test_row_2_keys_out_of_the_window_have_no_effect(chunk: int, way: Way) -> None:
    """The page that the window's first key is on holds older keys: they are replaced by NaN."""
    pair = Pair(way, sliding_window=W)
    start = 3 * W + 2
    ids = random_ids(start + chunk)
    results = []
    for spoil in (False, True):
        driver = pair.paged(page_size=16, num_pages=16)
        driver.run(ids[:start])
        if spoil:
            table = driver.tables[0, "sliding_attention"]
            dead = np.arange(table.first_key, start - W + 1) - table.first_key
            assert dead.size
            slots = np.array(table.pages)[dead // 16] * 16 + dead % 16
            for layer, kind in enumerate(pair.model.config.layer_types):
                if kind == "sliding_attention":
                    for pages in driver.cache.layer(layer):
                        pages.flatten(0, 1)[slots] = driver.poison
        results.append(driver.step([(0, ids[start:])]))
    assert results[0].isfinite().all()
    assert torch.equal(*results)


@every_way
def test_row_4_packed_batch_is_left_padded_batch_and_alone(way: Way, record_property: Any) -> None:
    pair = Pair(way)
    lengths = [1, 5, 8, 9, 23, 40]
    prompts = [random_ids(n, seed=n) for n in lengths]
    width = max(lengths)
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}

    def in_one_batch(model: Any) -> Tensor:
        rows = oracle_logits(model, padded, **inputs)
        return torch.cat([row[width - n :] for row, n in zip(rows, lengths, strict=True)])

    packed = pair.model.logits(pair.paged(num_pages=128).step(list(enumerate(prompts))))
    alone = flat_logits(pair.exact, prompts)
    if way.exact:
        assert torch.equal(packed.argmax(-1), alone.argmax(-1))
    pair.check(record_property, "row 4, packed and left-padded", packed, in_one_batch)
    pair.check(
        record_property,
        "row 4, packed and alone",
        packed,
        lambda model: flat_logits(model, prompts),
    )


@every_way
def test_row_4_prefill_chunks_and_decodes_in_one_step(way: Way, record_property: Any) -> None:
    """Sequences start, continue and decode in the same steps, some beyond the window."""
    pair = Pair(way)
    driver = pair.paged(num_pages=128)
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
    pair.check(
        record_property,
        "row 4, mixed steps",
        pair.model.logits(torch.cat([torch.cat(got[name]) for name in plans])),
        lambda model: flat_logits(model, [ids[name] for name in plans]),
    )


@every_way
@pytest.mark.parametrize("qk_scale", [1.0, 3.0])
def test_row_7_every_hidden_state(qk_scale: float, way: Way, record_property: Any) -> None:
    pair = Pair(way, qk_scale=qk_scale)
    ids = random_ids(60)
    got: list[Tensor] = []
    pair.paged(num_pages=64).step([(0, ids)], collect=got)
    pair.check_states(record_property, f"row 7, q and k x {qk_scale:g}", got, [ids])
