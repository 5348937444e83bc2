"""Constraints compiled against one vocabulary, in threads of their own, and kept for a while."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.constraint import Constraint
from model.errors import ConstraintError

from .grammar import grammar_of, reason_of
from .limits import COMPILED_AT_ONCE, COMPILED_KEPT, parser_limits
from .trial import try_out

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


@dataclass(frozen=True, slots=True)
class Compiled:
    """A constraint at its beginning; answers start from copies, which share the lexer's states."""

    constraint: Constraint
    _matcher: "LLMatcher"

    def start(self) -> "LLMatcher":
        """Give an answer of its own the state at the beginning of the text."""
        return self._matcher.deep_copy()


class Compiler:
    """Compiles constraints and keeps the last ones. `compile` and `forget` are for one thread.

    Args:
        vocabulary: builds the vocabulary; called once, in a thread.
        kept: constraints that are kept, failed ones too.
    """

    def __init__(self, vocabulary: Callable[[], "LLTokenizer"], kept: int = COMPILED_KEPT) -> None:
        self._threads = ThreadPoolExecutor(COMPILED_AT_ONCE, thread_name_prefix="compile")
        self._vocabulary = self._threads.submit(vocabulary)
        self._kept = kept
        self._compiled: OrderedDict[Constraint, Future[Compiled]] = OrderedDict()

    def prepare(self) -> None:
        """Return when the vocabulary is there."""
        self._vocabulary.result()

    def compile(self, constraint: Constraint) -> "Future[Compiled]":
        """Start to compile, unless that was done already; the future raises ConstraintError."""
        future = self._compiled.get(constraint)
        if future is None:
            future = self._threads.submit(self._compile, constraint)
            self._compiled[constraint] = future
            if len(self._compiled) > self._kept:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(constraint)
        return future

    def forget(self, constraint: Constraint) -> None:
        """Compile it anew for those who ask from now on: what its answers share is used up."""
        self._compiled.pop(constraint, None)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, constraint: Constraint) -> Compiled:
        from llguidance import LLMatcher  # noqa: PLC0415 - see the package's docstring

        grammar = grammar_of(constraint)
        try_out(constraint, grammar)
        vocabulary = self._vocabulary.result()
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=parser_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # so that nobody waits for the first one
        if matcher.is_error():
            raise ConstraintError(f"{constraint.kind}: {reason_of(matcher.get_error())}")
        return Compiled(constraint, matcher)
