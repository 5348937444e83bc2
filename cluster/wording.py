"""Numbers as people read them."""

from datetime import timedelta


def duration(seconds: float) -> str:
    """Write a duration: 4.2 s, and from a minute on 0:03:12."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def counted(number: int, noun: str) -> str:
    """Write a number and its noun: 1 error, 2,000 errors."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
