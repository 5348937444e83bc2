"""Gemma 2 and its engine.

    from model import Engine, EngineConfig, SamplingParams

The engine brings torch along, so it is imported when it is first asked for: those who only read a
job file or an error do not wait for it.
"""

from typing import TYPE_CHECKING, Any

from .errors import (
    ChatError,
    CheckpointError,
    ConfigError,
    ConstraintError,
    EngineDeadError,
    GemmarayError,
    ParameterError,
    PromptError,
    TaskError,
    TokenizerError,
)
from .long_texts import LongTexts
from .outputs import (
    ClassificationOutput,
    Completion,
    EmbeddingOutput,
    Entity,
    GenerationOutput,
    HiddenStatesOutput,
    LabelScore,
    LogprobsOutput,
    RequestOutput,
    RequestUpdate,
    TaggingOutput,
    TokenDelta,
    TokenLogprob,
)
from .params import EngineConfig, SamplingParams
from .stats import EngineStats, MemoryReport
from .tasks import Classify, Embed, Generate, PromptLogprobs, ScoreLabels, TagTokens, Task

if TYPE_CHECKING:
    from .engine import Engine

__all__ = [
    "ChatError",
    "CheckpointError",
    "ClassificationOutput",
    "Classify",
    "Completion",
    "ConfigError",
    "ConstraintError",
    "Embed",
    "EmbeddingOutput",
    "Engine",
    "EngineConfig",
    "EngineDeadError",
    "EngineStats",
    "Entity",
    "GemmarayError",
    "Generate",
    "GenerationOutput",
    "HiddenStatesOutput",
    "LabelScore",
    "LogprobsOutput",
    "LongTexts",
    "MemoryReport",
    "ParameterError",
    "PromptError",
    "PromptLogprobs",
    "RequestOutput",
    "RequestUpdate",
    "SamplingParams",
    "ScoreLabels",
    "TagTokens",
    "TaggingOutput",
    "Task",
    "TaskError",
    "TokenDelta",
    "TokenLogprob",
    "TokenizerError",
]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from .engine import Engine  # noqa: PLC0415 - see above

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
