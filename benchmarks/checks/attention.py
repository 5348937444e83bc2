"""The attention backends against the plain one in float32 on a CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from model.attention import AttentionBackend, FlashAttention, ReferenceAttention, choose
from model.batch import GroupLayout, PackedBatch

from .environment import Details, Setup, error_of, require

# (queries, keys) of each sequence: decodes, a prompt, chunks of a prompt.
SEQUENCES = ((1, 700), (1, 3), (130, 130), (64, 600), (1, 301), (17, 256))
WINDOW = 300
NUM_PAGES = 64
HEADS, KV_HEADS = 4, 2
CAP = 5.0  # about as large as the scores, so that it bends them
CPU = torch.device("cpu")
BF16_ERROR = 1e-2


def reference(setup: Setup) -> Details:
    """Run the reference backend on the device, in float32 and bfloat16."""
    details: Details = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, BF16_ERROR)):
        for name, error in _errors(setup, ReferenceAttention(), 256, dtype):
            label = f"{str(dtype).removeprefix('torch.')} {name}"
            details[label] = require(error, limit, label)
    return details


def flash(setup: Setup) -> Details:
    """Run flash-attn with soft cap, window and paged keys, with both head sizes of Gemma 2."""
    setup.need_cuda()
    details: Details = {}
    for head_dim in (128, 256):
        backend = FlashAttention(setup.device, torch.bfloat16, head_dim)
        backend.probe(setup.device, head_dim)
        for name, error in _errors(setup, backend, head_dim, torch.bfloat16):
            label = f"head_dim {head_dim} {name}"
            details[label] = require(error, BF16_ERROR, label)
    return details


def triton_attention(setup: Setup) -> Details:
    """Run our own Triton programs likewise."""
    setup.need_cuda()
    details: Details = {}
    for head_dim in (128, 256):
        backend = choose("triton", setup.device, torch.bfloat16, head_dim)
        for name, error in _errors(setup, backend, head_dim, torch.bfloat16):
            label = f"head_dim {head_dim} {name}"
            details[label] = require(error, BF16_ERROR, label)
    return details


def flex(setup: Setup) -> Details:
    """Run FlexAttention over pages likewise: compiled on a GPU, as written on a CPU."""
    details: Details = {}
    for head_dim in (128, 256):
        backend = choose("flex", setup.device, torch.bfloat16, head_dim)
        with uncompiled_flex(setup):
            errors = list(_errors(setup, backend, head_dim, torch.bfloat16))
        for name, error in errors:
            label = f"head_dim {head_dim} {name}"
            details[label] = require(error, BF16_ERROR, label)
    return details


def uncompiled_flex(setup: Setup) -> AbstractContextManager[object]:
    """Let a CPU run FlexAttention as written: torch would trace it anew for each shape."""
    if setup.on_cuda:
        return nullcontext()
    return mock.patch.object(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", new=True)


def _errors(
    setup: Setup, backend: AttentionBackend, head_dim: int, dtype: torch.dtype
) -> Iterator[tuple[str, float]]:
    """Yield the error of a backend without and with a window."""
    batch = _batch(backend.page_size)
    rows = len(batch.token_ids)
    pages = (NUM_PAGES * 256 // backend.page_size, backend.page_size, KV_HEADS, head_dim)
    q = setup.randn(rows, HEADS, head_dim, dtype=dtype)
    k, v = CAP * setup.randn(*pages, dtype=dtype), setup.randn(*pages, dtype=dtype)
    exact = [tensor.to(CPU, torch.float32) for tensor in (q, k, v)]
    for window in (None, WINDOW):
        expected = _attend(ReferenceAttention(), batch, exact, window)
        actual = _attend(backend, batch, [q, k, v], window)
        yield "without window" if window is None else "with window", error_of(actual, expected)


def _attend(
    backend: AttentionBackend, batch: PackedBatch, tensors: list[Tensor], window: int | None
) -> Tensor:
    q, k, v = tensors
    layout = batch.groups["full_attention"]
    plan = backend.plan(batch, layout, k.shape[1], window, q.device)
    return backend.attend(q, k, v, plan, scale=q.shape[-1] ** -0.5, softcap=CAP)


def _batch(page_size: int) -> PackedBatch:
    """Lay the sequences out over pages in no particular order."""
    query_lens, key_lens = (np.array(lens, dtype=np.int64) for lens in zip(*SEQUENCES, strict=True))
    pages = np.random.default_rng(0).permutation(NUM_PAGES * 256 // page_size).astype(np.int64)
    ends = np.cumsum(-(-key_lens // page_size))
    rows = int(query_lens.sum())
    nothing = np.zeros(rows, dtype=np.int64)
    layout = GroupLayout(
        slots=nothing,
        tables=tuple(np.split(pages[: ends[-1]], ends[:-1])),
        first_key=np.zeros(len(SEQUENCES), dtype=np.int64),
    )
    return PackedBatch(nothing, nothing, query_lens, key_lens, {"full_attention": layout})
