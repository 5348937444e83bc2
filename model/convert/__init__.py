"""Gemma 2 from the layouts of google/gemma_pytorch and Flax to transformers' own, and back."""

from .converting import MAX_SHARD_BYTES, Converted, Wishes, convert
from .original import Layout

__all__ = ["MAX_SHARD_BYTES", "Converted", "Layout", "Wishes", "convert"]
