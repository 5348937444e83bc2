r"""Log-probabilities in OpenAI's two shapes.

JSON has no minus infinity, and OpenAI writes -9999 for what is next to impossible. A token that is
part of a character is written as `bytes:\xe2\x82`, as OpenAI does; the bytes of all tokens but
the control tokens, put together, are the text.
"""

import codecs
from collections.abc import Iterable, Mapping, Sequence

from actors.calls import Piece
from model.outputs import LogprobsOutput, TokenLogprob

from .protocol import chat
from .protocol.completions import CompletionLogprobs

LEAST = -9999.0

Pieces = Mapping[int, Piece]
Top = Sequence[tuple[int, float]]


def token_text(piece: Piece) -> str:
    """Write a token as text."""
    try:
        return piece.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece.data)


def finite(logprob: float) -> float:
    """Write a log-probability as JSON can."""
    return max(logprob, LEAST)


def chat_logprobs(
    tokens: Iterable[TokenLogprob] | None, pieces: Pieces
) -> chat.ChatLogprobs | None:
    """Give the tokens of an answer as chats tell them; None where they were not asked for."""
    if tokens is None:
        return None
    return chat.ChatLogprobs(
        content=[
            chat.TokenLogprob(
                token=token_text(pieces[token.token_id]),
                logprob=finite(token.logprob),
                bytes=list(pieces[token.token_id].data),
                top_logprobs=[
                    chat.TopLogprob(
                        token=token_text(pieces[n]), logprob=finite(p), bytes=list(pieces[n].data)
                    )
                    for n, p in token.top
                ],
            )
            for token in tokens
        ]
    )


class CompletionTokens:
    """The tokens of one completion, told as completions do: all of them, or chunk by chunk.

    Args:
        top: how many of the likeliest tokens are told at each place.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._place = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, output: LogprobsOutput, pieces: Pieces) -> CompletionLogprobs:
        """Tell the tokens of the prompt; the first one has no probability."""
        tops = output.tops or ((),) * len(output.token_ids)
        return self._told(list(zip(output.token_ids, output.logprobs, tops, strict=True)), pieces)

    def answer(self, tokens: Iterable[TokenLogprob], pieces: Pieces) -> CompletionLogprobs:
        """Tell tokens of the answer."""
        return self._told([(t.token_id, t.logprob, t.top) for t in tokens], pieces)

    def _told(
        self, tokens: Sequence[tuple[int, float | None, Top]], pieces: Pieces
    ) -> CompletionLogprobs:
        offsets = []
        for token_id, _, _ in tokens:
            offsets.append(self._place)
            if pieces[token_id].in_text:
                self._place += len(self._decoder.decode(pieces[token_id].data))
        return CompletionLogprobs(
            tokens=[token_text(pieces[token_id]) for token_id, _, _ in tokens],
            token_logprobs=[None if p is None else finite(p) for _, p, _ in tokens],
            top_logprobs=[None if p is None else _by_text(top, pieces) for _, p, top in tokens]
            if self._top
            else None,
            text_offset=offsets,
        )


def joined(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """Put the tokens of a prompt and of an answer together."""
    tops = [part.top_logprobs for part in parts]
    return CompletionLogprobs(
        tokens=[token for part in parts for token in part.tokens],
        token_logprobs=[logprob for part in parts for logprob in part.token_logprobs],
        top_logprobs=None if None in tops else [top for some in tops for top in some or ()],
        text_offset=[offset for part in parts for offset in part.text_offset],
    )


def _by_text(top: Top, pieces: Pieces) -> dict[str, float]:
    """Give the likeliest tokens by their text; of two that read alike, the likelier."""
    found: dict[str, float] = {}
    for token_id, logprob in top:
        found.setdefault(token_text(pieces[token_id]), finite(logprob))
    return found
