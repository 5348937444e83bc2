"""What can be asked of one prompt. A request carries one or more: one prefill, many answers."""

from dataclasses import dataclass
from typing import Literal

from .params import SamplingParams

Normalize = Literal["sum", "mean"]
Pooling = Literal["last", "mean"]


@dataclass(frozen=True, slots=True)
class Generate:
    """Continue the prompt."""

    params: SamplingParams


@dataclass(frozen=True, slots=True)
class ScoreLabels:
    """Probabilities over labels: softmax over the labels' log-likelihoods after the prompt.

    Attributes:
        labels: their names, as they are reported.
        label_ids: the tokens of each label as a continuation of the prompt, never empty.
        normalize: "sum" takes log p(label | prompt); "mean" divides it by the label's length in
            tokens, so that long labels are not at a disadvantage.
    """

    labels: tuple[str, ...]
    label_ids: tuple[tuple[int, ...], ...]
    normalize: Normalize = "sum"


@dataclass(frozen=True, slots=True)
class Classify:
    """The checkpoint's sequence classification head at the rightmost position that is not pad."""


@dataclass(frozen=True, slots=True)
class TagTokens:
    """The checkpoint's token classification head at every position.

    Attributes:
        text: the text the prompt was encoded from; entities are spans of it.
        offsets: character [start, end) of each prompt token in the text; (0, 0) where none is.
    """

    text: str
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Embed:
    """The final hidden states, pooled to one vector."""

    pooling: Pooling = "last"
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probability of every prompt token given those before it.

    Attributes:
        top: also report this many of the likeliest tokens at each place, at most 100.
    """

    top: int = 0


Task = Generate | ScoreLabels | Classify | TagTokens | Embed | PromptLogprobs
