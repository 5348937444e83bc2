"""What was said so far, and the files that it is kept in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.chat import Turn, parse
from model.errors import ChatError, GemmarayError

from .answering import Message

ROLES = {"user": "user", "model": "assistant"}


class ChatFileError(GemmarayError):
    """A file can't be written or read as a chat."""


class Conversation:
    """Questions and answers by turns, all of them answered.

    Attributes:
        system: a text that goes before the first message, where the role that Gemma lacks would
            put it; may be empty.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._said: list[Message] = []
        self._files: set[Path] = set()

    def __len__(self) -> int:
        return len(self._said)

    def asked(self, question: str) -> list[Message]:
        """Give all messages with another question, the system text folded into the first.

        Raises:
            ChatError: the question or the system text is no text that a model reads.
        """
        return self._folded([*self._said, {"role": "user", "content": question}])

    def answered(self, question: str, answer: str) -> None:
        """Keep a question and its answer."""
        self._said += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]

    def reset(self) -> None:
        """Forget what was said."""
        self._said.clear()

    def save(self, path: Path) -> None:
        """Write the chat as one line of JSON, as jobs and transformers take it: {"messages": ...}.

        The system text stands in the first message. A file that was there before this chat, and
        was not loaded by it, is left alone.

        Raises:
            ChatFileError: there is nothing to save, or the file can't be written.
        """
        if not self._said:
            raise ChatFileError("there is nothing to save yet")
        line = json.dumps({"messages": self._folded(self._said)}, ensure_ascii=False)
        known = path.absolute() in self._files
        try:
            with path.open("w" if known else "x", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except FileExistsError:
            raise ChatFileError(f"{path} is there already: give another name") from None
        except OSError as error:
            raise ChatFileError(f"{path} can't be written: {error.strerror}") from None
        self._files.add(path.absolute())

    def load(self, path: Path) -> None:
        """Go on with a chat that was saved; what was said so far and the system text are dropped.

        Raises:
            ChatFileError: the file is none of one chat whose last message is an answer.
        """
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ChatFileError(f"{path} can't be read: {error}") from None
        self._said = _chat_of([line for line in lines if line.strip()], path)
        self.system = ""
        self._files.add(path.absolute())

    def _folded(self, said: Sequence[Message]) -> list[Message]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return _messages(parse([*system, *said], system="fold"))


def _chat_of(lines: Sequence[str], path: Path) -> list[Message]:
    if len(lines) != 1:
        raise ChatFileError(f"{path} holds {len(lines)} chats: make it a file of one line")
    try:
        found: Any = json.loads(lines[0])
        messages = found["messages"] if isinstance(found, dict) else found
        turns = parse(messages, system="fold")
    except (ValueError, KeyError) as error:
        fault = str(error) if isinstance(error, ChatError) else 'no JSON of {"messages": [...]}'
        raise ChatFileError(f"{path}: {fault}") from None
    if turns[-1].role != "model":
        raise ChatFileError(f"{path}: its last message is the user's; end it with an answer")
    return _messages(turns)


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [{"role": ROLES[turn.role], "content": turn.text} for turn in turns]
