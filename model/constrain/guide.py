"""One answer's place in its constraint."""

from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.errors import ConstraintError

from .compiler import Compiled
from .grammar import reason_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bits = npt.NDArray[np.uint8]


class Guide:
    """Follows one answer, and says what may come next.

    The engine's thread tells it of tokens; all else happens in the thread of `MaskFiller`, between
    `MaskFiller.start` and `Masks.wait`.

    Attributes:
        compiled: the constraint, maybe not compiled yet.
        fault: why it can't go on, once that is so.

    Args:
        compiled: what the answer has to be.
        ends: tokens that end it; allowed where the text may end, and nowhere else.
        vocab_size: tokens in all.
        min_tokens: before so many, it ends only if the text can't go on.
    """

    def __init__(
        self, compiled: "Future[Compiled]", ends: Iterable[int], vocab_size: int, min_tokens: int
    ) -> None:
        self.compiled = compiled
        self.fault: ConstraintError | None = None
        self._ends = _bits(ends, vocab_size)
        self._early = min_tokens
        self._matcher: LLMatcher | None = None
        self._new: list[int] = []

    def accept(self, token_id: int) -> None:
        """Take note of a token of the answer, not of the one that ends it."""
        self._new.append(token_id)
        self._early -= 1

    def advance(self) -> "LLMatcher":
        """Return the state behind all tokens so far."""
        if self._matcher is None:
            self._matcher = self.compiled.result().start()
        if self._new:
            self._matcher.consume_tokens(self._new)
            self._new.clear()
        return self._matcher

    def finish(self, mask: Bits) -> None:
        """Turn the compiler's mask into ours, and see whether the state is an error.

        Args:
            mask: [ceil(vocab_size / 8)] one bit for each token, the lowest first; an end token's
                bit says whether the text may end. It is changed in place.
        """
        assert self._matcher is not None
        if self._matcher.is_error():
            self.fault = self._error(self._matcher)
        elif (mask & self._ends).any():
            mask |= self._ends
            if self._early > 0:
                further = mask & ~self._ends
                if further.any():
                    mask[:] = further

    def _error(self, matcher: "LLMatcher") -> ConstraintError:
        kind = self.compiled.result().constraint.kind
        return ConstraintError(f"{kind}: the answer can't go on: {reason_of(matcher.get_error())}")


def _bits(ids: Iterable[int], vocab_size: int) -> Bits:
    tokens = np.zeros(vocab_size, dtype=np.uint8)
    tokens[list(ids)] = 1
    return np.packbits(tokens, bitorder="little")
