"""Token ids to text as they are generated: whole characters only, and stop strings cut off.

`tokenizers.decoders.DecodeStream` was tried first (0.23): where bytes are not UTF-8 it drops them
at the end of a text and raises "Invalid prefix encountered" before one goes on, while decoding the
whole sequence gives replacement characters. What is here equals that decode for any ids.
"""

import re
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenPieces(dict[int, str | int | None]):
    """What each token id adds to the text, looked up once per id.

    Text as str; the value of one byte of byte fallback as int; None for an id that decoding leaves
    out: a control token under `skip_special`, or an id past the vocabulary. Gemma's decoder works
    on one token at a time apart from runs of bytes, so these are all there is to know.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._skip_special = skip_special

    def __missing__(self, token_id: int) -> str | int | None:
        piece = self[token_id] = self._look_up(token_id)
        return piece

    def _look_up(self, token_id: int) -> str | int | None:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        if byte := BYTE_TOKEN.fullmatch(token):
            return int(byte[1], 16)
        text = str(self._tokenizer.decode([token_id], skip_special_tokens=False))
        if text and self._skip_special and not self._tokenizer.decode([token_id]):
            return None
        return text


class Detokenizer:
    """Decodes one sequence token by token.

    What `push` and a last `flush` return, put together, is what decoding all the ids at once
    gives, for any ids. Bytes of byte fallback are held until the run of them ends: one byte that
    is not UTF-8 turns the whole run into replacement characters, the good bytes before it too.
    """

    def __init__(self, pieces: Mapping[int, str | int | None]) -> None:
        self._pieces = pieces
        self._bytes: list[int] = []
        self._done: list[str] = []

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that is certain now and was not before."""
        piece = self._pieces[token_id]
        if isinstance(piece, str):
            if self._bytes:
                piece = self._end_of_run() + piece
            self._done.append(piece)
            return piece
        if piece is not None:
            self._bytes.append(piece)
        return ""

    def flush(self) -> str:
        """End the sequence; return the text that was held back."""
        text = self._end_of_run()
        self._done.append(text)
        return text

    @property
    def text(self) -> str:
        """Everything returned so far."""
        if len(self._done) > 1:
            self._done = ["".join(self._done)]
        return self._done[0] if self._done else ""

    def _end_of_run(self) -> str:
        run, self._bytes = bytes(self._bytes), []
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)


class StopChecker:
    """Finds the first of some stop strings in a text that arrives in pieces.

    First is the one that is complete first, and of two that end at the same character the longer:
    so the outcome does not depend on how the text was cut into pieces. Text that may turn out to
    begin a stop string is held back, and nothing else is.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would match everywhere"
        # The longer first, so that it wins over another that ends at the same character.
        self._stops = sorted(stops, key=len, reverse=True)
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._longest = len(self._stops[0]) if stops else 0
        self._held = ""

    def push(self, piece: str, *, armed: bool = True) -> tuple[str, str | None]:
        """Take the next piece of text.

        Args:
            piece: any length, also empty.
            armed: False lets stop strings that become complete within this piece pass as text; one
                that only begins in it counts as soon as a later piece completes it.

        Returns:
            (text, stop): what can be shown now, and the stop string that was met or None. The text
            ends before the stop string, and the checker is of no more use after one.
        """
        if not self._held and self._first_characters.isdisjoint(piece):
            return piece, None
        text = self._held + piece
        if armed and (found := self._find(text)):
            start, stop = found
            self._held = ""
            return text[:start], stop
        keep = self._undecided(text)
        self._held = text[keep:]
        return text[:keep], None

    def flush(self) -> str:
        """End the text; return what was held back."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str] | None:
        """The start of the stop string that is complete first within the new piece."""
        found: tuple[int, str] | None = None
        end = len(text) + 1
        for stop in self._stops:
            # An occurrence that ends within the held text came while the checker was not armed.
            start = text.find(stop, max(0, len(self._held) - len(stop) + 1), end - 1)
            if start >= 0:
                end = start + len(stop)
                found = (start, stop)
        return found

    def _undecided(self, text: str) -> int:
        """The first place from which `text` may be the beginning of a stop string."""
        for place in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[place] in self._first_characters:
                tail = text[place:]
                if any(len(tail) < len(stop) and stop.startswith(tail) for stop in self._stops):
                    return place
        return len(text)
