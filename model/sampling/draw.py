"""Random numbers without a state, and the token that a random number stands for.

Shapes: R rows, W columns, K candidates.
"""

import struct
from hashlib import blake2b

import torch
from torch import Tensor

from .blocks import BLOCK, in_blocks, one_block


def uniform(seed: int, step: int) -> float:
    """Return the random number in [0, 1) that draws token `step` of a sequence.

    A function of its arguments and nothing else: the upper 53 bits of BLAKE2b over both as
    little-endian 64-bit integers. So a draw can be repeated on any machine, in any batch.
    """
    return (_hash(b"gemmaray.draw", seed, step) >> 11) * 2.0**-53


def child_seed(seed: int, index: int) -> int:
    """Return the seed, in [0, 2**63), of the index-th of n answers; the first keeps the seed."""
    return seed if index == 0 else _hash(b"gemmaray.child", seed, index) >> 1


def _hash(purpose: bytes, first: int, second: int) -> int:
    digest = blake2b(struct.pack("<QQ", first, second), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little")


def draw_token(p_RW: Tensor, u_R: Tensor) -> Tensor:
    """Invert the distribution function over the columns, in the order of their ids.

    Args:
        p_RW: [R, W] float32 weights >= 0 of any sum.
        u_R: [R] float64 in [0, 1).

    Returns:
        [R] int64 columns, each of positive weight if its row has one at all.
    """
    # First the block, then the column within it: no running sum over the whole vocabulary.
    sums_RN = in_blocks(p_RW).sum(-1).double().cumsum(-1)
    block_R, rest_R = invert(sums_RN, u_R * sums_RN[:, -1])
    inside_RB = one_block(p_RW, block_R).double().cumsum(-1)
    column_R, _ = invert(inside_RB, rest_R)
    return block_R * BLOCK + column_R


def draw_rank(weights_RK: Tensor, u_R: Tensor) -> Tensor:
    """Invert the distribution function over K float64 weights per row: [R] int64 indices."""
    sums_RK = weights_RK.cumsum(-1)
    return invert(sums_RK, u_R * sums_RK[:, -1])[0]


def invert(sums_RK: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first running sum above the target, and what of the target is left in its part.

    A target that rounding has lifted to the total is brought back under it, so the sum that is
    found always rises above its predecessor: its own weight is positive.
    """
    below_total_R = torch.nextafter(sums_RK[:, -1], sums_RK.new_full((), -torch.inf))
    target_R1 = torch.minimum(target_R, below_total_R)[:, None]
    found_R1 = torch.searchsorted(sums_RK, target_R1, right=True)
    # Sums that are not numbers (a row without a finite score) may lead past the end.
    found_R1 = found_R1.clamp(max=sums_RK.shape[1] - 1)
    before_R1 = sums_RK.gather(1, (found_R1 - 1).clamp(min=0)) * (found_R1 > 0)
    return found_R1[:, 0], (target_R1 - before_R1)[:, 0]
