"""What a front door asks of an endpoint, and what comes back: plain values that Ray can carry.

What can go wrong because of a request comes back as a Failure and is not raised: an exception that
crosses processes arrives wrapped, or not at all where it can't be pickled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from model.chat import SystemPolicy
from model.long_texts import LongTexts
from model.outputs import TaskOutput, TokenDelta
from model.tasks import Aggregation, Classify, Embed, Generate, Normalize, PromptLogprobs

REFUSED = LongTexts()


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text, taken as it is.

    Attributes:
        text: the text.
        add_bos: whether `<bos>` goes before it, as the model expects.
    """

    text: str
    add_bos: bool = True


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, taken as they are."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages, for the chat template.

    Attributes:
        messages: see model.chat.prompt_pieces.
        continue_final: whether the model carries on with the last message, the assistant's.
    """

    messages: Sequence[Mapping[str, object]]
    continue_final: bool = False


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class AskLabels:
    """Probabilities over labels as the answer; the endpoint encodes them."""

    labels: tuple[str, ...]
    normalize: Normalize = "sum"


@dataclass(frozen=True, slots=True)
class AskTags:
    """Labelled spans of the prompt, which must be text. Nothing else is asked beside it."""

    aggregation: Aggregation = "simple"
    ignore_labels: tuple[str, ...] = ("O",)


Ask = Generate | PromptLogprobs | Classify | Embed | AskLabels | AskTags


@dataclass(frozen=True, slots=True)
class Call:
    """Prompts, and what is asked of each.

    Attributes:
        prompts: one or more.
        asks: one or more, of different kinds; each prompt is computed once for all of them.
        salt: prompts share what is computed of them only with those of the same salt.
        with_text: whether the answers tell the text of the prompts.
        long_texts: what becomes of prompts that are too long.
        adapter: the name of the adapter that computes it; None is the model alone.
        max_windows: in how many all of them may be computed together; None is any number.
    """

    prompts: tuple[Prompt, ...]
    asks: tuple[Ask, ...]
    salt: bytes = b""
    with_text: bool = False
    long_texts: LongTexts = REFUSED
    adapter: str | None = None
    max_windows: int | None = None


class Piece(NamedTuple):
    """What a token stands for.

    Attributes:
        data: its text in UTF-8, or a byte of it.
        in_text: whether it is part of the text; control tokens are not.
    """

    data: bytes
    in_text: bool


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """What became of one prompt.

    Attributes:
        prompt_tokens: how many there were.
        results: one for each ask.
        text: of the prompt, if it was asked for.
        pieces: each token that the results give a log-probability of.
        truncated: whether the end of its text was left out.
        windows: in how many it was computed.
    """

    prompt_tokens: int
    results: tuple[TaskOutput, ...]
    text: str | None = None
    pieces: Mapping[int, Piece] = field(default_factory=dict)
    truncated: bool = False
    windows: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no answer.

    Attributes:
        kind: "request" for what the caller can mend, "dead" for an engine that died, which another
            try may not meet.
        message: one line for a person.
        code: what a program may want to know of it, in OpenAI's words where there are any.
    """

    kind: Literal["request", "dead"]
    message: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The first event of a stream: the texts of the prompts, if they were asked for."""

    texts: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Added:
    """Tokens of one completion of one prompt, and what those with a log-probability stand for."""

    prompt: int
    delta: TokenDelta
    pieces: Mapping[int, Piece]


@dataclass(frozen=True, slots=True)
class Ended:
    """One prompt, of this many tokens, is done."""

    prompt: int
    prompt_tokens: int


Event = Begun | Added | Ended | Failure


@dataclass(frozen=True, slots=True)
class Card:
    """What there is to know of a served model.

    Attributes:
        architecture: which head it has.
        max_model_len: most tokens of prompt and answer.
        vocab_size: token ids go up to it.
        chat: whether it takes messages.
        loaded: when, in seconds since 1970.
        system: what becomes of a first system message.
        parent: of an adapter: the model that it changes.
    """

    architecture: str
    max_model_len: int
    vocab_size: int
    chat: bool
    loaded: int
    system: SystemPolicy = "reject"
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a prompt, and the most that the model takes."""

    ids: tuple[int, ...]
    pieces: tuple[Piece, ...]
    max_model_len: int


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """What an endpoint's engine holds now, and what it has done since it was built.

    Attributes:
        running: requests that are being computed; each prompt of a call is one.
        waiting: requests that are not yet.
        finished: requests that ended.
        prompt_tokens: prompt tokens computed.
        output_tokens: tokens generated.
        cache_pages_used: pages of the KV cache that requests hold.
        cache_pages_total: pages that there are.
        prefix_hits: prompt tokens, in whole pages, that were found in the cache.
        prefix_lookups: those that might have been.
    """

    running: int
    waiting: int
    finished: int
    prompt_tokens: int
    output_tokens: int
    cache_pages_used: int
    cache_pages_total: int
    prefix_hits: int
    prefix_lookups: int
