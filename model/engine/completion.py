"""One answer while it is being written: draws, end conditions, text."""

import numpy as np

from model.constrain import Guide
from model.detokenizer import StopChecker
from model.outputs import Completion, FinishReason, TokenLogprob
from model.params import SamplingParams
from model.sampling import SampledToken, SamplingRow
from model.tokenizer import GemmaTokenizer

from .sequence import Chunk, Continuation
from .step import StepPlan


class CompletionReader:
    """Draws tokens after a prompt until an end token, a stop string or a limit.

    Args:
        params: how to draw, and where to end.
        seed: fixes the draws of this completion.
        prompt: the prompt's tokens, for the repetition penalty.
        limit: tokens that it may have at most: max_tokens, or what the model's length leaves.
        eos_ids: the checkpoint's end tokens.
        tokenizer: None for a checkpoint without one; the text is then empty.
        guide: which tokens it may have; None is all of them.

    Attributes:
        guide: as above.
    """

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        prompt: list[int],
        limit: int,
        eos_ids: tuple[int, ...],
        tokenizer: GemmaTokenizer | None,
        guide: Guide | None = None,
    ) -> None:
        self.limit = limit
        self.guide = guide
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._min_tokens = params.min_tokens
        self._ends = frozenset((*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)))
        self._keep_logprobs = params.logprobs is not None
        self._row = SamplingRow(
            params=params,
            seed=seed,
            prompt_ids=np.array(prompt if params.repetition_penalty != 1.0 else (), dtype=np.int64),
            output_ids=self.token_ids,
        )
        self._detokenizer = tokenizer.detokenizer() if tokenizer is not None else None
        self._asked = 0
        self._stops = StopChecker(params.stop) if params.stop else None
        self._stop_string: str | None = None
        self._cumulative = 0.0
        self._logprobs: list[TokenLogprob] = []

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    @property
    def layers(self) -> None:
        """It needs all of them."""

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        """Ask for a draw after the last token that is known."""
        if chunk.last:
            plan.draw(row + chunk.count - 1, self)
            self._asked += 1

    def carry(self) -> "CompletionReader | None":
        """Go on after a draw unless it is the last one."""
        return self if self._asked < self.limit else None

    def continuations(self) -> list[Continuation]:
        """Go on with the token drawn last, unless it was the end."""
        return [] if self.done else [(self, [self.token_ids[-1]])]

    def sampling_row(self) -> SamplingRow:
        """Say how the token that was asked for last is drawn."""
        row = self._row
        row.step = self._asked - 1
        # A guide sees to min_tokens itself: its text may be at an end that can't be put off.
        early = row.step < self._min_tokens and self.guide is None
        row.banned = tuple(self._ends) if early else ()
        return row

    def accept(self, token: SampledToken) -> None:
        """Append a drawn token, and end if it ends the answer or nothing can follow."""
        token_id = token.token_id
        if self.guide is not None:
            if self.guide.fault is not None:  # the token is none
                self.finish_reason = "abort"
                return
            if token_id not in self._ends:
                self.guide.accept(token_id)
        self.token_ids.append(token_id)
        self._cumulative += token.logprob
        if self._keep_logprobs:
            self._logprobs.append(TokenLogprob(token_id, token.logprob, token.top))
        if token_id in self._ends:
            self._finish("stop")
        else:
            if self._detokenizer is not None:
                self._append(self._detokenizer.push(token_id))
            if not self.done and len(self.token_ids) >= self.limit:
                self._finish("length")

    def logprobs(self, start: int = 0) -> tuple[TokenLogprob, ...] | None:
        """Return those of the tokens from `start` on, if they were asked for."""
        return tuple(self._logprobs[start:]) if self._keep_logprobs else None

    def result(self) -> Completion:
        """Return the finished completion."""
        assert self.finish_reason is not None
        return Completion(
            token_ids=tuple(self.token_ids),
            text=self.text,
            finish_reason=self.finish_reason,
            cumulative_logprob=self._cumulative,
            logprobs=self.logprobs(),
            stop_string=self._stop_string,
        )

    def _append(self, piece: str) -> None:
        """Add text, as far as it can't be the beginning of a stop string."""
        if self._stops is None:
            self.text += piece
            return
        safe, matched = self._stops.push(piece, armed=len(self.token_ids) >= self._min_tokens)
        self.text += safe
        if matched is not None:
            self._stop_string = matched
            self.finish_reason = "stop"

    def _finish(self, reason: FinishReason) -> None:
        if self._detokenizer is not None:
            self._append(self._detokenizer.flush())
        if not self.done:
            if self._stops is not None:
                self.text += self._stops.flush()
            self.finish_reason = reason
