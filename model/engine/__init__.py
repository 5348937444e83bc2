"""Continuous batching with chunked prefill over a hybrid cache, in process, without Ray."""

from .core import EngineStats
from .engine import Engine

__all__ = ["Engine", "EngineStats"]
