"""What comes out of the engine, one object per task of a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import GemmarayError

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


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled span of the prompt's text: characters [start, end)."""

    label: str
    start: int
    end: int
    text: str
    score: float


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
    GenerationOutput | ClassificationOutput | TaggingOutput | EmbeddingOutput | LogprobsOutput
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


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What an engine has allocated. All bytes are those of one rank: each holds a like share.

    Attributes:
        device: "cpu" or "cuda".
        ranks: that share every layer.
        weight_bytes: parameters and buffers.
        free_bytes: of the device when the weights were in place and the KV cache was not.
        pages: of the KV cache.
        page_tokens: tokens that a page holds, for one layer group.
        page_bytes: bytes of a page.
        sequences: how many sequences of a context length, in tokens, the cache holds at a time.
    """

    device: str
    ranks: int
    weight_bytes: int
    free_bytes: int
    pages: int
    page_tokens: int
    page_bytes: int
    sequences: Mapping[int, int]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache."""
        return self.pages * self.page_bytes

    @property
    def left_bytes(self) -> int:
        """What remained free for activations, and for others."""
        return self.free_bytes - self.kv_bytes

    def __str__(self) -> str:
        """Put it in a few lines."""
        ranks = f", on each of {self.ranks} ranks" if self.ranks > 1 else ""
        held = ", ".join(f"{count} of {length}" for length, count in self.sequences.items())
        return (
            f"memory on {self.device}{ranks}\n"
            f"  weights        {_mib(self.weight_bytes)}\n"
            f"  KV cache       {_mib(self.kv_bytes)}: {self.pages} pages of {self.page_tokens} "
            f"tokens, {self.page_bytes} bytes each\n"
            f"  left           {_mib(self.left_bytes)} of {_mib(self.free_bytes)} free before\n"
            f"  sequences that fit at a time, by tokens: {held}"
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
