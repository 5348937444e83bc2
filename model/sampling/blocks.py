"""Maxima and orders over a vocabulary without sorting it.

Shapes: R rows, V tokens, W columns (V padded to whole blocks), N blocks of B columns, K candidates.

Only the blocks that can matter are looked at twice: on a CPU one pass of block maxima costs a
seventh of torch's argmax, and leaves a small part of the vocabulary to topk.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 64


def whole_blocks(logits_RV: Tensor, width: int) -> Tensor:
    """Return [R, W] float32 with -inf in the columns from V on; may be the input itself.

    Args:
        logits_RV: of any float dtype.
        width: W, a multiple of BLOCK and at least V.
    """
    missing = width - logits_RV.shape[1]
    logits_RV = logits_RV.float().contiguous()
    return pad(logits_RV, (0, missing), value=-torch.inf) if missing else logits_RV


def in_blocks(x_RW: Tensor) -> Tensor:
    """View [R, W] as [R, N, B]."""
    return x_RW.view(x_RW.shape[0], -1, BLOCK)


def one_block(x_RW: Tensor, block_R: Tensor) -> Tensor:
    """Take one block of each row: [R, B]."""
    rows = torch.arange(x_RW.shape[0], device=x_RW.device)
    return in_blocks(x_RW)[rows, block_R]


def argmax(x_RW: Tensor) -> Tensor:
    """Return the column [R] of each row's maximum, the lowest one among equals."""
    block_R = in_blocks(x_RW).amax(-1).argmax(-1)
    return block_R * BLOCK + one_block(x_RW, block_R).argmax(-1)


def ranked(x_RW: Tensor, k: int, *, lowest_id_first: bool) -> tuple[Tensor, Tensor]:
    """Return columns and values, both [R, K], of each row's k largest values in falling order.

    Equal values are ordered by their column. Which of the columns that equal the last value are
    returned is arbitrary unless k is W.
    """
    values_RK, columns_RK = _largest(x_RW, k)
    return in_order(columns_RK, values_RK, lowest_id_first=lowest_id_first)


def in_order(ids_RK: Tensor, values_RK: Tensor, *, lowest_id_first: bool) -> tuple[Tensor, Tensor]:
    """Sort candidates by falling value, equal ones by their id."""
    ids_RK, order_RK = ids_RK.sort(-1, descending=not lowest_id_first)
    values_RK, order_RK = values_RK.gather(1, order_RK).sort(stable=True, dim=-1, descending=True)
    return ids_RK.gather(1, order_RK), values_RK


def _largest(x_RW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return values and columns [R, K] of the k largest values in any order."""
    blocks_RNB = in_blocks(x_RW)
    # The k largest values lie in the k blocks of the largest maxima. From an eighth of all blocks
    # on, finding those costs more than it saves.
    if k * 8 > blocks_RNB.shape[1]:
        return x_RW.topk(k, sorted=False)
    chosen_RK = blocks_RNB.amax(-1).topk(k, sorted=False).indices
    candidates_RKB = blocks_RNB.gather(1, chosen_RK[:, :, None].expand(-1, -1, BLOCK))
    values_RK, found_RK = candidates_RKB.flatten(1).topk(k, sorted=False)
    block_RK = chosen_RK.gather(1, found_RK // BLOCK)
    return values_RK, block_RK * BLOCK + found_RK % BLOCK
