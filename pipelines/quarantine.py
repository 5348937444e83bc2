"""Input files that take no part in a job."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that can't be used, as it was when the job was planned.

    Attributes:
        name: as of an InputFile.
        path: where it lies.
        size: in bytes.
        version: the S3 ETag, or the time of its last change.
        reason: what is wrong with it, worded to follow its name.
    """

    name: str
    path: str
    size: int
    version: str
    reason: str
