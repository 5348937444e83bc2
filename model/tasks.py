"""What can be asked of one prompt. A request carries one or more: one prefill, many answers."""

from dataclasses import dataclass
from typing import Literal

from .params import SamplingParams

Normalize = Literal["sum", "mean"]
Pooling = Literal["last", "mean", "cls", "none"]
Aggregation = Literal["none", "simple", "first", "average", "max"]
FunctionToApply = Literal["default", "sigmoid", "softmax", "none"]


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
    """The checkpoint's sequence classification head at the rightmost position that is not pad.

    Attributes:
        function_to_apply: from the head's outputs to scores; see model.pooling.Scores.
    """

    function_to_apply: FunctionToApply = "default"


@dataclass(frozen=True, slots=True)
class TagTokens:
    """The checkpoint's token classification head at every position.

    Attributes:
        text: the text the prompt was encoded from; entities are spans of it.
        offsets: character [start, end) of each prompt token in the text; (0, 0) where none is.
        aggregation: how tokens become entities; see model.tagging.entities_of.
        ignore_labels: labels that make no entity.
        trim: whether white space at the ends of an entity is left out; never with "none".
    """

    text: str
    offsets: tuple[tuple[int, int], ...]
    aggregation: Aggregation = "simple"
    ignore_labels: tuple[str, ...] = ("O",)
    trim: bool = True

    @property
    def trims(self) -> bool:
        """Whether white space is left out."""
        return self.trim and self.aggregation != "none"


@dataclass(frozen=True, slots=True)
class Embed:
    """Hidden states, pooled to one vector or as they are.

    Attributes:
        pooling: the hidden state of the "last" token, the "mean" of all, that of the first token
            ("cls", `<bos>`), or "none": one for each token.
        normalize: give each vector unit length.
        layer: as transformers numbers them: 0 is the embeddings, -1 what comes after the final
            norm; layers beyond it are not computed if no other task needs them.
    """

    pooling: Pooling = "last"
    normalize: bool = True
    layer: int = -1


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probability of every prompt token given those before it.

    Attributes:
        top: also report this many of the likeliest tokens at each place, at most 100.
    """

    top: int = 0


Task = Generate | ScoreLabels | Classify | TagTokens | Embed | PromptLogprobs
