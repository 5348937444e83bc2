"""Where answers and notes go: standard output and standard error."""

import sys

from rich.console import Console

# What moves the cursor, changes colours or rings must not come from a model.
HARMLESS = "\n\t"
CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in HARMLESS
}


class Screen:
    """Writes answers as they come, and notes beside them.

    Args:
        quiet: leave the notes out, errors aside.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._shown = sys.stdout.isatty()
        self._console = Console(
            stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False
        )

    def say(self, piece: str) -> None:
        """Write a piece of an answer; on a terminal without what controls it."""
        sys.stdout.write(piece.translate(CONTROLS) if self._shown else piece)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the user something that is no answer."""
        if not self._quiet:
            self._console.print(text.translate(CONTROLS), style="dim")

    def fault(self, message: str) -> None:
        """Tell what went wrong."""
        self._console.print(f"error: {message.translate(CONTROLS)}", style="red")
