"""How many KV pages an engine may have, and the account of its memory."""

import psutil
import torch

from model.config import ModelConfig
from model.errors import ParameterError
from model.hybrid_cache import HybridCache, Windows

# Of what is free once the weights are in place. The rest is for activations, for other replicas
# on the same node, and on a CPU for the page cache of the input.
CPU_SHARE = 0.25
CUDA_SHARE = 0.85
# Kept of prompts that have ended, for those to come. Pages on a CPU are real memory only once they
# were written to, so there it is bounded.
CPU_IDLE_BYTES = 512 << 20


def free_bytes(device: torch.device) -> int:
    """Return the memory of a device that nobody uses."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(psutil.virtual_memory().available)


def kv_share(free: int, device: torch.device) -> int:
    """Return the bytes of the free ones that a KV cache may take when nothing else is said."""
    return int(free * (CUDA_SHARE if device.type == "cuda" else CPU_SHARE))


def idle_pages(bytes_per_page: int, device: torch.device) -> int | None:
    """Return how many pages are kept for prompts to come; None for all that are free."""
    return None if device.type == "cuda" else CPU_IDLE_BYTES // bytes_per_page


def count_pages(allowed: int, bytes_per_page: int, wanted: int, least: int) -> int:
    """Return the number of pages: as many as fit, and no more than could ever be used.

    Args:
        allowed: bytes.
        bytes_per_page: of one rank.
        wanted: pages that the most and longest sequences would fill.
        least: pages that a single sequence of one chunk needs.

    Raises:
        ParameterError: not even that one fits.
    """
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


def layer_windows(config: ModelConfig) -> Windows:
    """Return a model's layer groups, each with its window in tokens, None for full layers."""
    return {kind: config.window(kind) for kind in dict.fromkeys(config.layer_types)}
