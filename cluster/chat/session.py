"""The turns of a chat."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from model.errors import GemmarayError
from pipelines.errors import JobInterrupted

from .answering import Answerer, Ending, Message, TooLongError
from .reading import Reader
from .screen import Screen
from .slash import SLASH, Commands

SOME_MESSAGE_FAILED = 1


class Session:
    """Takes messages and commands until there are no more.

    Args:
        model: who answers.
        commands: hold the conversation and what can be changed of it.
        reader: where messages come from.
        screen: where answers go.
        runner: what answers are awaited in; its Ctrl-C cancels them.
        typed: whether a person is at a terminal: Ctrl-C ends an answer then, and not the chat.
    """

    def __init__(
        self,
        model: Answerer,
        commands: Commands,
        reader: Reader,
        screen: Screen,
        runner: asyncio.Runner,
        *,
        typed: bool,
    ) -> None:
        self._model = model
        self._commands = commands
        self._reader = reader
        self._screen = screen
        self._runner = runner
        self._typed = typed
        self._failed = False

    def run(self) -> int:
        """Chat, and give the exit status: 1 if lines of a pipe failed.

        Raises:
            JobInterrupted: Ctrl-C, where nobody is at a terminal.
        """
        while True:
            try:
                if not self._turn():
                    break
            except KeyboardInterrupt:
                if not self._typed:
                    raise JobInterrupted("interrupted") from None
                self._screen.note("Ctrl-D or /exit leaves the chat")
            except GemmarayError as error:
                self._failed = True
                hint = "; /reset begins a new chat" if isinstance(error, TooLongError) else ""
                self._screen.fault(f"{error}{hint}")
        return SOME_MESSAGE_FAILED if self._failed and not self._typed else 0

    def _turn(self) -> bool:
        """Do one thing, and tell whether there is more to come."""
        line = self._reader.read()
        if line is None:
            return False
        if line.startswith(SLASH) and not line.startswith(SLASH * 2):
            return self._commands.obey(line)
        if line.strip():
            self._answer(line.replace(SLASH * 2, SLASH, 1) if line.startswith(SLASH) else line)
        return True

    def _answer(self, question: str) -> None:
        """Have a message answered, and keep both unless something goes wrong.

        An answer that the user stops is kept as far as it came: that is what was read.
        """
        conversation, said = self._commands.conversation, list[str]()
        messages = conversation.asked(question)
        try:
            self._runner.run(self._say(messages, said))
        except KeyboardInterrupt:
            if not self._typed:
                raise
            self._screen.note("stopped; what was said is kept" if said else "stopped")
            if not said:
                return
        conversation.answered(question, "".join(said))

    async def _say(self, messages: Sequence[Message], said: list[str]) -> None:
        """Write an answer while it comes, and keep its pieces in `said`."""
        settings, cut = self._commands.settings, False
        try:
            async with aclosing(self._model.answer(messages, settings)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Ending):
                        cut = piece.cut
                    else:
                        said.append(piece)
                        self._screen.say(piece)
        finally:
            if said or not self._typed:
                self._screen.say("\n")
        if cut:
            self._screen.note("cut off at the most tokens; /set max_tokens N allows more")
