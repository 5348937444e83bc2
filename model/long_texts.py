"""Texts of more tokens than the model takes: refused, cut off, or computed in windows.

Windows are those of transformers' tokenizers (`truncation`, `return_overflowing_tokens`, `stride`):
each has as many tokens as fit, `stride` of them are the last of the window before it, and the last
window ends with the text. What belongs to no text, `<bos>` or the turns of a chat, is kept whole in
each of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import ParameterError, PromptError

if TYPE_CHECKING:
    from .tokenizer import GemmaTokenizer

LongTextsMode = Literal["error", "truncate", "stride"]
# A stride near the length of a window makes one of nearly every token.
MOST_WINDOWS = 4096


@dataclass(frozen=True, slots=True)
class LongTexts:
    """What becomes of texts that are too long.

    Attributes:
        mode: "error" refuses them, "truncate" leaves out what is too much at their end, "stride"
            computes them in windows.
        stride: tokens that a window shares with the one before it; with "stride" alone, and needed
            there.

    Raises on construction: ParameterError: the two do not fit each other.
    """

    mode: LongTextsMode = "error"
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.mode == "stride" and self.stride is None:
            raise ParameterError(
                "long_texts: stride needs stride: N, the tokens that neighbouring windows share"
            )
        if self.mode != "stride" and self.stride is not None:
            raise ParameterError(f"stride goes with long_texts: stride, and not with {self.mode}")
        if self.stride is not None and self.stride < 0:
            raise ParameterError(f"stride must be at least 0, got {self.stride}")

    def check(self, limit: int) -> None:
        """Raise ParameterError if no window of `limit` tokens could go on after such a stride."""
        if self.stride is not None and self.stride >= limit - 1:
            raise ParameterError(
                f"stride is {self.stride}, and a window has {limit} tokens with its <bos>: it must "
                f"be less than {limit - 1}"
            )


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens of a prompt that stay whatever is cut: so many at its start, and at its end."""

    head: int = 1
    tail: int = 0

    @classmethod
    def of_tokens(cls, ids: Sequence[int], bos_id: int | None) -> "Frame":
        """Find it around plain text: `<bos>`, if it is there."""
        return cls(head=1 if ids and ids[0] == bos_id else 0)

    @classmethod
    def of_chat(cls, ids: Sequence[int], tokenizer: "GemmaTokenizer") -> "Frame":
        """Find it around the last text of a conversation, as `encode_messages` gives it."""
        probe = tokenizer.encode_messages([{"role": "user", "content": "x"}])
        start_of_turn, end_of_turn = probe[1], tokenizer.end_of_turn_id
        closing = probe[probe.index(end_of_turn) :] if end_of_turn is not None else []
        is_open = list(ids[-len(closing) :]) == closing
        tail = len(closing) if is_open else 0
        role = "user\n" if is_open else "model\n"
        turn = max(n for n in range(len(ids) - tail) if ids[n] == start_of_turn)
        return cls(turn + 1 + len(tokenizer.encode_text(role, add_bos=False)), tail)


@dataclass(frozen=True, slots=True)
class WindowedPrompt:
    """A prompt that is computed in windows.

    Attributes:
        ids: all of its tokens.
        frame: those that every window has.
        bounds: places [start, end) in `ids` of what each window has between them.
    """

    ids: Sequence[int]
    frame: Frame
    bounds: tuple[tuple[int, int], ...]

    def places(self) -> Iterator[list[int]]:
        """Give the places in `ids` of each window's tokens."""
        count = len(self.ids)
        head, tail = range(self.frame.head), range(count - self.frame.tail, count)
        for start, end in self.bounds:
            yield [*head, *range(start, end), *tail]

    def fresh(self) -> Iterator[range]:
        """Give the places within each window of tokens that no window before it has.

        Those of the head count for the first window, those of the tail for the last.
        """
        seen = 0
        for number, (start, end) in enumerate(self.bounds):
            first = self.frame.head + max(seen - start, 0) if number else 0
            is_last = number == len(self.bounds) - 1
            stop = self.frame.head + end - start + (self.frame.tail if is_last else 0)
            yield range(first, stop)
            seen = end


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits.

    Attributes:
        prompt: its tokens, or its windows.
        kept: how many of the text's tokens are left, those of the frame included.
        truncated: whether some were cut off.
    """

    prompt: "Sequence[int] | WindowedPrompt"
    kept: int
    truncated: bool = False

    @property
    def windows(self) -> int:
        """In how many it is computed."""
        return len(self.prompt.bounds) if isinstance(self.prompt, WindowedPrompt) else 1


def fit(ids: Sequence[int], limit: int, long_texts: LongTexts, frame: Frame) -> Fitted:
    """Bring a prompt into what the model takes. With mode "error" it is left as it is.

    Args:
        ids: its tokens.
        limit: most tokens of a prompt.
        long_texts: what to do where there are more.
        frame: the tokens that stay.

    Raises:
        PromptError: what has to stay leaves no room for the text, or there are too many windows.
    """
    count = len(ids)
    if count <= limit or long_texts.mode == "error":
        return Fitted(ids, count)
    room = limit - frame.head - frame.tail
    shared = long_texts.stride or 0
    if room <= shared:
        raise PromptError(
            f"the prompt has {count} tokens, and {frame.head + frame.tail} around its text and "
            f"{shared} of stride leave none of {limit} for the text: shorten what is before it"
        )
    end = count - frame.tail
    if long_texts.mode == "truncate":
        cut = [*ids[: frame.head + room], *ids[end:]]
        return Fitted(cut, len(cut), truncated=True)
    # As `Encoding.truncate` of the tokenizers library cuts.
    starts = range(frame.head, end - shared, room - shared)
    if len(starts) > MOST_WINDOWS:
        raise PromptError(
            f"the prompt has {count} tokens, which makes {len(starts)} windows of {limit} with a "
            f"stride of {shared}; {MOST_WINDOWS} are the most: lower the stride"
        )
    bounds = tuple((start, min(start + room, end)) for start in starts)
    return Fitted(WindowedPrompt(ids, frame, bounds), count)
