"""Attention over a paged KV cache: one interface, several backends."""

import logging

import torch

from model.errors import ParameterError
from model.params import AttentionName

from .base import AttentionBackend
from .flash import FlashAttention
from .native import NativeAttention
from .reference import ReferenceAttention

__all__ = ["AttentionBackend", "FlashAttention", "NativeAttention", "ReferenceAttention", "choose"]


def choose(
    name: AttentionName, device: torch.device, dtype: torch.dtype, head_dim: int = 256
) -> AttentionBackend:
    """Return the backend of this name; for "auto", the fastest that works here.

    Raises:
        ParameterError: the one that was named can't be used here.
    """
    if name == "native":
        return NativeAttention(device, dtype, head_dim)
    if name == "reference":
        return ReferenceAttention()
    if name == "auto" and device.type != "cuda":
        try:
            return NativeAttention(device, dtype, head_dim)
        except ParameterError:  # `kernels.choose` has said why, where it is worth a word
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
