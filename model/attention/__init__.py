"""Attention over a paged KV cache: one interface, several backends."""

import logging

import torch

from model.errors import ParameterError
from model.params import AttentionName

from .base import AttentionBackend
from .flash import FlashAttention
from .flex import FlexAttention
from .native import NativeAttention
from .reference import ReferenceAttention
from .triton import TritonAttention

__all__ = [
    "AttentionBackend",
    "FlashAttention",
    "FlexAttention",
    "NativeAttention",
    "ReferenceAttention",
    "TritonAttention",
    "choose",
]


def choose(
    name: AttentionName, device: torch.device, dtype: torch.dtype, head_dim: int = 256
) -> AttentionBackend:
    """Return the backend of this name; for "auto", the fastest that works here.

    Raises:
        ParameterError: the one that was named can't be used here.
    """
    if name == "reference":
        return ReferenceAttention()
    if name == "native":
        return NativeAttention(device, dtype, head_dim)
    if name == "flash":
        return _flash(device, dtype, head_dim)
    if name == "triton":
        return _triton(device, dtype, head_dim)
    if name == "flex":
        return _flex(device, dtype, head_dim)
    return (
        _fastest_on_cuda(device, dtype, head_dim)
        if device.type == "cuda"
        else _fastest_on_cpu(device, dtype, head_dim)
    )


def _fastest_on_cpu(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionBackend:
    try:
        return NativeAttention(device, dtype, head_dim)
    except ParameterError:  # `kernels.choose` has said why, where it is worth a word
        return ReferenceAttention()


def _fastest_on_cuda(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionBackend:
    obstacles = []
    for attempt in (_flash, _triton, _flex):
        try:
            return attempt(device, dtype, head_dim)
        except ParameterError as error:
            obstacles.append(str(error))
    logging.getLogger(__name__).warning(
        "attention runs in plain torch, which is slow on a GPU: %s", "; ".join(obstacles)
    )
    return ReferenceAttention()


def _flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> FlashAttention:
    flash = FlashAttention(device, dtype, head_dim)
    try:
        flash.probe(device, head_dim)
    # A build for another GPU or without soft cap raises RuntimeError; an old version, TypeError.
    except (RuntimeError, TypeError) as error:
        raise ParameterError(
            f"attention='flash': the installed flash-attn fails here ({error}); install 2.8 or "
            "newer, built for this GPU, or use 'flex' or 'reference'"
        ) from error
    return flash


def _triton(device: torch.device, dtype: torch.dtype, head_dim: int) -> TritonAttention:
    ours = TritonAttention(device, dtype, head_dim)
    try:
        ours.probe(device, dtype, head_dim)
    # Triton has exceptions of its own for each of its parts.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ParameterError(
            f"attention='triton': the kernel does not compile or run here ({reason}); use 'flex' "
            "or 'reference'"
        ) from error
    return ours


def _flex(device: torch.device, dtype: torch.dtype, head_dim: int) -> FlexAttention:
    try:
        flex = FlexAttention(device, head_dim)
        if device.type == "cuda":
            flex.probe(device, dtype, head_dim)
    except ParameterError:
        raise
    # torch's compiler has exceptions of its own for each of its parts, and so has Triton.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ParameterError(
            f"attention='flex': FlexAttention does not compile here ({reason}); it needs Triton "
            "and a C compiler; or use 'reference'"
        ) from error
    return flex
