"""What a job says of itself while it runs, and at its end."""

from dataclasses import dataclass

from .error_counts import ErrorCount
from .quarantine import BadFile


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is.

    Attributes:
        rows_total: rows of the whole job.
        rows_done: rows with a result, those of runs before this one included.
        rows_failed: those of them that ended in an error.
        prompt_tokens: prompt tokens that this run computed.
        completion_tokens: tokens that this run generated.
        replicas: engines at work.
        elapsed_s: seconds since this run began.
    """

    rows_total: int
    rows_done: int
    rows_failed: int
    prompt_tokens: int
    completion_tokens: int
    replicas: int
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        """Prompt and generated tokens per second of this run."""
        return (self.prompt_tokens + self.completion_tokens) / max(self.elapsed_s, 1e-9)


@dataclass(frozen=True, slots=True)
class JobReport(Progress):
    """What a finished job did.

    The tokens are those of the rows that this run committed, wherever they were computed first.

    Attributes:
        output: the folder that holds the results.
        parts: Parquet files in it.
        rows_resumed: rows that were there before this run.
        chat: whether prompts went through the chat template.
        plan: the plan's id.
        errors: the failed rows by class, the commonest first, each with an example.
        rows_retried: failed rows that this run tried again.
        rows_mended: those of them that are good now.
        quarantined: input files that took no part, since they can't be used.
    """

    output: str
    parts: int
    rows_resumed: int
    chat: bool
    plan: str
    errors: tuple[ErrorCount, ...] = ()
    rows_retried: int = 0
    rows_mended: int = 0
    quarantined: tuple[BadFile, ...] = ()
