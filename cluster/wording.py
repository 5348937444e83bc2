"""Numbers as people read them."""

from datetime import timedelta

THOUSANDS = ("", "k", "M", "G", "T")


def duration(seconds: float) -> str:
    """Write a duration: 4.2 s, and from a minute on 0:03:12."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def counted(number: int, noun: str) -> str:
    """Write a number and its noun: 1 error, 2,000 errors."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def share(part: float, whole: float) -> str:
    """Write a part of a whole: 0.4 %, 12 %."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if 0 < percent < 9.95 else f"{percent:.0f} %"


def compact(number: float) -> str:
    """Write a number in three digits: 950, 12.3k, 4M."""
    power = 0
    while abs(number) >= 999.5 and power < len(THOUSANDS) - 1:
        number /= 1000
        power += 1
    return f"{number:.3g}{THOUSANDS[power]}"
