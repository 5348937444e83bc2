"""What an engine has for constrained answers, made when the first one is asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from model.errors import ConstraintError, TaskError
from model.params import SamplingParams
from model.tokenizer import GemmaTokenizer

from .compiler import Compiler
from .guide import Guide
from .masks import MaskFiller, Masks
from .vocabulary import compiler_vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Constraints:
    """Compiles, guides and masks for one engine. For the engine's thread.

    Args:
        tokenizer: of the checkpoint; None if it has none.
        vocab_size: rows of the model's logits.
        eos_ids: the checkpoint's end tokens.
    """

    def __init__(
        self, tokenizer: GemmaTokenizer | None, vocab_size: int, eos_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._compiler: Compiler | None = None
        self._filler: MaskFiller | None = None

    def guides(self, params: SamplingParams, count: int) -> list[Guide]:
        """Return what guides each of several answers; it begins to be compiled if need be.

        Raises:
            TaskError: the checkpoint has no tokenizer, or nothing that ends an answer.
        """
        constraint = params.constraint
        assert constraint is not None
        if self._tokenizer is None:
            raise TaskError(f"{constraint.kind} needs a tokenizer, and the checkpoint has none")
        if not self._eos_ids:
            raise TaskError(f"{constraint.kind} needs an end token, and the checkpoint names none")
        # A stop token that is text ends the answer where the text has it.
        ends = {*self._eos_ids, *(self._tokenizer.control_ids & {*params.stop_token_ids})}
        compiled = self._ready_compiler().compile(constraint)
        return [Guide(compiled, ends, self._vocab_size, params.min_tokens) for _ in range(count)]

    def prepare(self) -> None:
        """Build the compiler's vocabulary and wait for it, if anything can be constrained."""
        if self._tokenizer is not None and self._eos_ids:
            self._ready_compiler().prepare()

    def fault(self, guides: Sequence[Guide]) -> ConstraintError | None:
        """Return why one of them can't go on, if that is so; others are to start afresh then."""
        stuck = next((guide for guide in guides if guide.fault is not None), None)
        if stuck is None:
            return None
        assert self._compiler is not None
        self._compiler.forget(stuck.compiled.result().constraint)
        return stuck.fault

    def start(self, guides: Sequence[Guide]) -> Masks:
        """Begin with the masks of a step."""
        if self._filler is None:
            self._filler = MaskFiller(self._vocab_size)
        return self._filler.start(guides)

    def close(self) -> None:
        """End the threads."""
        if self._compiler is not None:
            self._compiler.close()
        if self._filler is not None:
            self._filler.close()

    def _ready_compiler(self) -> Compiler:
        if self._compiler is None:
            self._compiler = Compiler(self._vocabulary)
        return self._compiler

    def _vocabulary(self) -> "LLTokenizer":
        assert self._tokenizer is not None
        return compiler_vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)
