"""What begins with a slash: commands to the chat instead of messages to the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.wording import counted
from model.errors import GemmarayError

from .conversation import Conversation
from .screen import Screen
from .settings import described, with_setting

COMMANDS = {
    "/system": ("[TEXT]", "put TEXT before the first message; alone, leave it out again"),
    "/set": ("[NAME VALUE]", "as in /set temperature 0.7; VALUE none is the default; alone, show"),
    "/reset": ("", "begin a new chat; system text and settings stay"),
    "/save": ("FILE", "write the chat as a line of JSON that jobs and transformers take"),
    "/load": ("FILE", "go on with a chat that was saved"),
    "/help": ("", "show this"),
    "/exit": ("", "leave, as Ctrl-D does"),
}
SLASH = "/"


class CommandError(GemmarayError):
    """There is no such command, or not in this form."""


class Commands:
    """Obeys commands.

    Attributes:
        conversation: what was said.
        settings: fields of SamplingParams that the user has set.
    """

    def __init__(
        self, conversation: Conversation, settings: dict[str, Any], screen: Screen
    ) -> None:
        self.conversation = conversation
        self.settings = settings
        self._screen = screen
        self._handlers: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/set": self._set,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
        }

    def obey(self, line: str) -> bool:
        """Do what a line says, and tell whether the chat goes on.

        Raises:
            GemmarayError: it can't be done.
        """
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name not in COMMANDS:
            raise CommandError(
                f"there is no command {name}; /help lists them, and // begins a message with a /"
            )
        takes, _ = COMMANDS[name]
        if rest and not takes:
            raise CommandError(f"{name} takes nothing behind it")
        if takes == "FILE" and not rest:
            raise CommandError(f"say which file: {name} FILE")
        if name == "/exit":
            return False
        self._handlers[name](rest)
        return True

    def _help(self, _: str) -> None:
        width = max(len(f"{name} {takes}") for name, (takes, _) in COMMANDS.items())
        for name, (takes, does) in COMMANDS.items():
            self._screen.note(f"{name} {takes}".ljust(width + 2) + does)
        self._screen.note(
            "Enter sends; Alt-Enter, or a backslash and Enter, begin another line; Ctrl-C stops an "
            "answer; // begins a message with a slash"
        )

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self._screen.note(
            "a new chat; the system text stays" if self.conversation.system else "a new chat"
        )

    def _system(self, text: str) -> None:
        self.conversation.system = text
        self._screen.note(
            "this text goes before the first message" if text else "there is no system text now"
        )

    def _save(self, name: str) -> None:
        self.conversation.save(Path(name).expanduser())
        self._screen.note(f"saved {counted(len(self.conversation), 'message')} to {name}")

    def _load(self, name: str) -> None:
        self.conversation.load(Path(name).expanduser())
        self._screen.note(f"going on behind {counted(len(self.conversation), 'message')}")

    def _set(self, words: str) -> None:
        if words:
            self.settings = with_setting(self.settings, words)
            self._screen.note(f"set {words}")
        else:
            self._screen.note(described(self.settings))
