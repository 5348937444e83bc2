"""Parts of a chat that do what a test tells them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from cluster.chat.answering import Ending, Message
from cluster.chat.conversation import Conversation
from cluster.chat.screen import Screen
from cluster.chat.session import Session
from cluster.chat.slash import Commands


class Scripted:
    """A model that says its pieces, each time the same; an exception among them is raised."""

    name = "scripted"

    def __init__(self, *pieces: str | Exception, cut: bool = False) -> None:
        self.pieces = pieces
        self.cut = cut
        self.asked: list[tuple[Sequence[Message], Mapping[str, Any]]] = []

    async def answer(
        self, messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> AsyncGenerator[str | Ending, None]:
        self.asked.append((messages, settings))
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            await asyncio.sleep(0)
            yield piece
        yield Ending(cut=self.cut)

    async def close(self) -> None:
        pass


class Lines:
    """A reader of lines, where Ctrl-C may stand."""

    def __init__(self, *lines: str | type[KeyboardInterrupt]) -> None:
        self._lines = iter(lines)

    def read(self) -> str | None:
        line = next(self._lines, None)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        assert line is None or isinstance(line, str)
        return line


def chatted(
    model: Scripted, *lines: str | type[KeyboardInterrupt], typed: bool = False
) -> tuple[int, Commands]:
    """Have a chat, and give its exit status and what is left of it."""
    screen = Screen(quiet=False)
    commands = Commands(Conversation(), {}, screen)
    with asyncio.Runner() as runner:
        session = Session(model, commands, Lines(*lines), screen, runner, typed=typed)
        return session.run(), commands
