"""Continuous batching with chunked prefill over a hybrid cache, in process, without Ray."""

from model.stats import EngineStats

from .engine import Engine

__all__ = ["Engine", "EngineStats"]
