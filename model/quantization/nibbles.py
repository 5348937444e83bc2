"""Two values of four bits in a byte, the first of them in the high half, as bitsandbytes does."""

import torch
from torch import Tensor


def pack(codes_ND: Tensor) -> Tensor:
    """Pack uint8 codes below 16: [N, D / 2]."""
    return (codes_ND[:, ::2] << 4) | codes_ND[:, 1::2]


def unpack(packed: Tensor) -> Tensor:
    """Return the codes [N, D]."""
    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2)
