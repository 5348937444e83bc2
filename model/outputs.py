"""What comes out of the engine, one object per task of a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import GemmarayError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of one generated token, and of the likeliest ones at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer.

    Attributes:
        token_ids: every generated token, the one that ended it included.
        text: decoded; control tokens, end tokens and a matched stop string are left out.
        finish_reason: "stop" at an end token or stop string, "length" at a limit.
        cumulative_logprob: sum of the model's own log-probabilities of token_ids.
        logprobs: one per token when they were asked for.
        stop_string: the stop string that was met, if that is what ended it.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    cumulative_logprob: float
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """The n completions of one prompt; the properties speak of the first."""

    prompt_tokens: int
    completions: tuple[Completion, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Its tokens."""
        return self.completions[0].token_ids

    @property
    def text(self) -> str:
        """Its text."""
        return self.completions[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """How it ended."""
        return self.completions[0].finish_reason

    @property
    def cumulative_logprob(self) -> float:
        """The sum of its log-probabilities."""
        return self.completions[0].cumulative_logprob

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Its log-probabilities, where they were asked for."""
        return self.completions[0].logprobs


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and how strongly it is held, a probability unless said otherwise."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """Scores over all labels, in the order of the labels; from a head or from label likelihoods.

    Attributes:
        label: the label of the highest score.
        score: that score.
        scores: every label's.
        logits: what the scores were computed from: the head's outputs, or the log-likelihoods.
    """

    prompt_tokens: int
    label: str
    score: float
    scores: tuple[LabelScore, ...]
    logits: tuple[float, ...]

    @classmethod
    def of(
        cls,
        prompt_tokens: int,
        labels: Sequence[str],
        scores: Sequence[float],
        logits: Sequence[float],
    ) -> "ClassificationOutput":
        """Put the scores of labels together; the first of the highest is the label."""
        best = max(range(len(labels)), key=scores.__getitem__)
        named = tuple(LabelScore(*pair) for pair in zip(labels, scores, strict=True))
        return cls(prompt_tokens, labels[best], scores[best], named, tuple(logits))

    def best(self, count: int | None) -> tuple[LabelScore, ...]:
        """Return so many labels, the highest score first; None is all, in their own order."""
        if count is None:
            return self.scores
        return tuple(sorted(self.scores, key=lambda item: item.score, reverse=True)[:count])


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled span of the prompt's text: characters [start, end).

    Attributes:
        index: of the token that it is, where tokens are not aggregated.
    """

    label: str
    start: int
    end: int
    text: str
    score: float
    index: int | None = None


@dataclass(frozen=True, slots=True)
class TaggingOutput:
    """Entities of one text, and the label of each of its tokens (the <bos> included)."""

    prompt_tokens: int
    entities: tuple[Entity, ...]
    token_labels: tuple[str, ...]
    token_scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """One vector of hidden_size float32 values."""

    prompt_tokens: int
    embedding: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HiddenStatesOutput:
    """The hidden state of each token: [prompt_tokens, hidden_size] float32."""

    prompt_tokens: int
    hidden_states: "npt.NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class LogprobsOutput:
    """log p(token | tokens before it) of each prompt token; None for the first one.

    Attributes:
        tops: (id, log-probability) of the likeliest tokens at each place, best first, where they
            were asked for; nothing for the first one.
    """

    prompt_tokens: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    tops: tuple[tuple[tuple[int, float], ...], ...] | None = None


TaskOutput = (
    GenerationOutput
    | ClassificationOutput
    | TaggingOutput
    | EmbeddingOutput
    | HiddenStatesOutput
    | LogprobsOutput
)


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request: one result for each of its tasks, in their order."""

    request_id: str
    prompt_tokens: int
    results: tuple[TaskOutput, ...]


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """What one step added to one completion of a streamed request.

    Attributes:
        index: of the completion, among the n of its prompt.
        token_ids: the tokens.
        text: what is certain of the text now and was not before; often behind the tokens.
        logprobs: one per token when they were asked for.
        finish_reason: how the completion ended, with its last tokens.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class RequestUpdate:
    """What one step did for a request; the last update has its `output`, or why it has none."""

    request_id: str
    deltas: tuple[TokenDelta, ...] = ()
    output: RequestOutput | None = None
    error: GemmarayError | None = None
