"""How many KV pages an engine may have."""

import psutil
import torch

from model.errors import ParameterError
from model.hybrid_cache import HybridCache

# Of what is free once the weights are in place. The rest is for activations, for other replicas
# on the same node, and on a CPU for the page cache of the input.
CPU_SHARE = 0.25
CUDA_SHARE = 0.85


def free_bytes(device: torch.device) -> int:
    """Return the memory that a KV cache may take on a device when nothing else is said."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * CUDA_SHARE)
    return int(psutil.virtual_memory().available * CPU_SHARE)


def count_pages(
    limit_bytes: int | None,
    bytes_per_page: int,
    device: torch.device,
    wanted: int,
    least: int,
) -> int:
    """Return the number of pages: as many as fit, and no more than could ever be used.

    Args:
        limit_bytes: what the user allows; None for a share of what is free.
        bytes_per_page: of one rank.
        device: where they go.
        wanted: pages that the most and longest sequences would fill.
        least: pages that a single sequence of one chunk needs.

    Raises:
        ParameterError: not even that one fits.
    """
    allowed = free_bytes(device) if limit_bytes is None else limit_bytes
    pages = min(wanted, allowed // bytes_per_page)
    if pages < least:
        raise ParameterError(
            f"the KV cache has room for {pages} pages of {bytes_per_page} bytes and needs at "
            f"least {least}: raise kv_cache_bytes to {least * bytes_per_page} or more"
        )
    return pages


def most_pages(pages: HybridCache, max_sequences: int, max_len: int, chunk: int) -> int:
    """Return the pages that max_sequences sequences of max_len tokens fill."""
    return max_sequences * pages.demand(max_len, chunk, ())
