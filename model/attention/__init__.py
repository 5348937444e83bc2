"""Attention over a paged KV cache: one interface, several backends."""

import logging

import torch

from model.errors import ParameterError
from model.params import AttentionName

from .base import AttentionBackend
from .flash import FlashAttention
from .reference import ReferenceAttention

__all__ = ["AttentionBackend", "FlashAttention", "ReferenceAttention", "choose"]


def choose(
    name: AttentionName, device: torch.device, dtype: torch.dtype, head_dim: int = 256
) -> AttentionBackend:
    """Return the backend of this name; for "auto", flash where it works and reference elsewhere.

    Raises:
        ParameterError: the one that was named can't be used here.
    """
    if name == "reference" or (name == "auto" and device.type != "cuda"):
        return ReferenceAttention()
    try:
        flash = FlashAttention(device, dtype, head_dim)
        flash.probe(device, head_dim)
    # A build for another GPU or without soft cap raises RuntimeError; an old version, TypeError.
    except (ParameterError, RuntimeError, TypeError) as error:
        if name == "auto":
            logging.getLogger(__name__).warning(
                "attention runs in plain torch, which is slow on a GPU: %s", error
            )
            return ReferenceAttention()
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(
            f"attention='flash': the installed flash-attn fails here ({error}); install 2.8 or "
            "newer, built for this GPU, or use 'reference'"
        ) from error
    return flash
