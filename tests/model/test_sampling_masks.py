"""Masks in the sampler: what they leave out is never drawn, and what they leave is as it was."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.params import SamplingParams
from model.sampling import SamplingRow, processed_logits
from model.sampling.adjust import unpacked

from .draws import sample
from .test_sampling import make_logits
from .test_sampling_draws import random_row
from .test_sampling_ranks import assert_same, sample_on_ranks


def mask_of(allowed: list[int], vocab: int) -> Any:
    tokens = np.zeros(vocab, dtype=np.uint8)
    tokens[allowed] = 1
    return np.packbits(tokens, bitorder="little")


def masked(row: SamplingRow, allowed: list[int], vocab: int) -> SamplingRow:
    row.mask = mask_of(allowed, vocab)
    row.banned = ()
    return row


@pytest.mark.parametrize("vocab", [5, 64, 300, 4099])
def test_only_what_is_allowed_is_drawn(vocab: int) -> None:
    rng = random.Random(vocab)
    sets = [rng.sample(range(vocab), rng.choice([1, 2, max(1, vocab // 3)])) for _ in range(60)]
    rows = [masked(random_row(rng, vocab), allowed, vocab) for allowed in sets]
    logits = make_logits(60, vocab, peak=20.0, seed=1, dtype=torch.float32)
    for token, allowed in zip(sample(logits, rows), sets, strict=True):
        assert token.token_id in allowed


def test_what_is_allowed_keeps_its_score() -> None:
    vocab, rng = 300, random.Random(3)
    allowed = rng.sample(range(vocab), 40)
    settings = {"temperature": 0.7, "logit_bias": {allowed[0]: 5.0, 7: 100.0}}
    plain = SamplingRow(SamplingParams(**settings))
    logits = make_logits(1, vocab, peak=10.0, seed=2, dtype=torch.float32)
    free = processed_logits(logits, [plain])[0]
    bound = processed_logits(logits, [masked(SamplingRow(plain.params), allowed, vocab)])[0]
    assert torch.equal(bound[allowed], free[allowed])
    others = [token for token in range(vocab) if token not in allowed]
    assert (bound[others] == -torch.inf).all()


def test_a_mask_of_everything_changes_no_bit() -> None:
    vocab, rng = 1000, random.Random(4)
    seeds = [rng.randrange(1 << 30) for _ in range(40)]
    free = [random_row(random.Random(seed), vocab) for seed in seeds]
    bound = [random_row(random.Random(seed), vocab) for seed in seeds]
    for row in bound:
        row.mask = mask_of(list(range(vocab)), vocab)
    logits = make_logits(40, vocab, peak=10.0, seed=5, dtype=torch.float32)
    assert sample(logits, bound) == sample(logits, free)


def test_rows_without_a_mask_draw_what_they_do_alone() -> None:
    vocab, rng = 1000, random.Random(6)
    rows = [random_row(rng, vocab) for _ in range(40)]
    logits = make_logits(40, vocab, peak=10.0, seed=7, dtype=torch.float32)
    alone = sample(logits, rows)
    for row in rows[::2]:
        masked(row, rng.sample(range(vocab), 9), vocab)
    assert sample(logits, rows)[1::2] == alone[1::2]


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_draw_what_one_does_under_masks(size: int) -> None:
    vocab, rng = 4099, random.Random(8)
    # Some sets leave whole ranks without a token.
    sets = [rng.sample(range(rng.choice([20, vocab])), rng.choice([1, 3, 18])) for _ in range(40)]
    rows = [masked(random_row(rng, vocab), allowed, vocab) for allowed in sets]
    logits = make_logits(40, vocab, peak=10.0, seed=9, dtype=torch.float32)
    found, _ = sample_on_ranks(logits, rows, size)
    assert_same(found, sample(logits, rows))


def test_a_row_is_sent_with_its_mask() -> None:
    row = masked(SamplingRow(SamplingParams()), [3], 9)
    assert row.portable().mask is row.mask
    assert not row.on_device
    assert row.adjusted


def test_bits_on_a_device_are_those_of_the_host() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (5, 37), dtype=np.uint8)
    bits: Tensor = unpacked(torch.from_numpy(packed))
    assert (bits.numpy() == np.unpackbits(packed, axis=1, bitorder="little")).all()
