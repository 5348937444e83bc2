"""Where messages come from: a person at a terminal, or lines of a pipe."""

import sys
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from model.errors import GemmarayError

# At the end of a line: the message goes on with the next one.
GOES_ON = "\\"


class LineError(GemmarayError):
    """A line is no text."""


class Reader(Protocol):
    """Gives messages and commands, one by one."""

    def read(self) -> str | None:
        r"""Wait for the next one, lines in it parted by \n; None when there are no more.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            LineError: a line can't be used; the next call goes on behind it.
        """
        ...


class Typed:
    """Messages of several lines, edited as in a shell; what was written is not kept on disk.

    Args:
        commands: to complete with Tab.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            history=InMemoryHistory(),
            completer=WordCompleter([*commands], sentence=True),
            complete_while_typing=False,
        )

    def read(self) -> str | None:
        """Have the user write; Ctrl-D on an empty line is the end."""
        try:
            return self._session.prompt()
        except EOFError:
            return None


class Piped:
    """Lines of a binary stream; one that ends with a backslash goes on with the next."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self) -> str | None:
        """Read the next line, and those that it goes on with."""
        data = self._line()
        if data is None:
            return None
        lines = [data]
        while lines[-1].endswith(GOES_ON.encode()):
            lines[-1] = lines[-1].removesuffix(GOES_ON.encode())
            following = self._line()
            if following is None:
                break
            lines.append(following)
        try:
            return b"\n".join(lines).decode()
        except UnicodeDecodeError as error:
            raise LineError(f"a line is not valid UTF-8: {error.reason}") from None

    def _line(self) -> bytes | None:
        line = self._stream.readline()
        return line.removesuffix(b"\n").removesuffix(b"\r") if line else None


def reader_of(*, typed: bool, commands: Sequence[str]) -> Reader:
    """Read from a person, or from the lines of standard input."""
    return Typed(commands) if typed else Piped(sys.stdin.buffer)


def _keys() -> KeyBindings:
    """Have Enter send, and Alt-Enter or a backslash before it begin another line."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(GOES_ON):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys
