"""What a check says."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        check: what was looked at.
        state: "warning" where something works, but less well than it could.
        text: what was found.
        fix: what to do about it; empty where all is well.
    """

    check: str
    state: State
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(check, "warning", text, fix)


def problem(check: str, text: str, fix: str) -> Finding:
    """It does not work, or it is dangerous."""
    return Finding(check, "problem", text, fix)


def gib(size: float) -> str:
    """Write a number of bytes."""
    return f"{size / GIB:.1f} GiB"
