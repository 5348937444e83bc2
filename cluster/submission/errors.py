"""What can go wrong between a submitter and a cluster."""

from model.errors import GemmarayError


class SubmissionError(GemmarayError):
    """A cluster can't be reached, or a job can't be sent to it, seen or stopped."""


class UnknownJobError(SubmissionError):
    """The cluster knows no job of this id."""


class TakenError(SubmissionError):
    """There is a job of this id already."""
