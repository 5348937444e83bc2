"""The command at a real terminal: a pseudo-terminal that is its controlling one."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.cluster.readme_commands import REPOSITORY

MODEL = str(REPOSITORY / "examples" / "demo-model" / "causal-lm")
SOON = 30.0
UP, ALT_ENTER, CTRL_C, CTRL_D = b"\x1b[A", b"\x1b\r", b"\x03", b"\x04"
CONTROLS = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()=>].?)")


class Terminal:
    """A command that runs at a terminal, and what it has shown there."""

    def __init__(self, *arguments: str, rows: int = 40, columns: int = 100) -> None:
        self.seen = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster", "chat", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=REPOSITORY,
            # Nobody is there to answer where the cursor is.
            env=os.environ | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no locks
        )
        os.close(slave)

    def type(self, keys: str | bytes) -> None:
        os.write(self._master, keys.encode() if isinstance(keys, str) else keys)

    def until(self, text: str, seconds: float = SOON) -> str:
        """Wait for a text, and give what was shown up to it; what follows is looked at next."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} never came after {self.seen!r}"
            self._read(0.1)
        before, _, self.seen = self.seen.partition(text)
        return before

    def more(self, characters: int) -> None:
        """Wait for so many characters more."""
        end = time.monotonic() + SOON
        while len(self.seen) < characters:
            assert time.monotonic() < end, f"no more came after {self.seen!r}"
            self._read(0.1)

    def ended(self) -> int:
        end = time.monotonic() + SOON
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it never ended: {self.seen!r}"
            self._read(0.1)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            with suppress(OSError):  # the other end is closed
                shown = os.read(self._master, 1 << 16).decode(errors="replace")
                self.seen += CONTROLS.sub("", shown).replace("\r", "")


Open = Callable[..., Terminal]


@pytest.fixture
def at_terminal() -> Iterator[Open]:
    with ExitStack() as stack:

        def begin(*arguments: str) -> Terminal:
            terminal = Terminal(*arguments)
            stack.callback(terminal.close)
            return terminal

        yield begin


def test_a_chat_at_a_terminal(at_terminal: Open, tmp_path: Path) -> None:
    saved = tmp_path / "chat.jsonl"
    terminal = at_terminal("--model", MODEL)
    terminal.until("Ctrl-D leaves")
    terminal.until(">")
    # Two lines: one ends with a backslash; a paste has as many as it has.
    terminal.type("Name the section of this Debian package.\\\rlibfoo1: shared library\r")
    terminal.until("libs\n")
    terminal.until(">")
    terminal.type(b"one" + ALT_ENTER + b"two\x1b[200~\nthree\nfour\x1b[201~\r")
    terminal.until("four")
    terminal.until(">")
    terminal.type("/nonsense\r")
    terminal.until("there is no command /nonsense")
    terminal.until(">")
    terminal.type(f"/save {saved}\r")
    terminal.until("saved 4 messages")
    terminal.until(">")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    messages = json.loads(saved.read_text())["messages"]
    assert messages[0]["content"].endswith("package.\nlibfoo1: shared library")
    assert messages[1] == {"role": "assistant", "content": "libs"}
    assert messages[2]["content"] == "one\ntwo\nthree\nfour"


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(at_terminal: Open, tmp_path: Path) -> None:
    saved = tmp_path / "chat.jsonl"
    terminal = at_terminal("--model", MODEL, "--ignore-eos", "--temperature", "2", "--seed", "1")
    terminal.until(">")
    terminal.type(CTRL_C)
    terminal.until("Ctrl-D or /exit leaves")
    terminal.until(">")
    terminal.type("hello\r")
    terminal.until("hello\n")
    terminal.more(20)  # of 8,000 tokens
    begun = time.monotonic()
    terminal.type(CTRL_C)
    terminal.until("stopped; what was said is kept")
    assert time.monotonic() - begun < 5
    terminal.until(">")
    terminal.type("/set max_tokens 2\r")
    terminal.until(">")
    # The first message again, from the history.
    terminal.type(UP + UP + b"\r")
    terminal.until("cut off at the most tokens")
    terminal.until(">")
    terminal.type(f"/save {saved}\r/exit\r")
    terminal.until("saved 4 messages")
    assert terminal.ended() == 0
    messages = json.loads(saved.read_text())["messages"]
    assert [message["content"] for message in messages][::2] == ["hello", "hello"]
    assert len(messages[1]["content"]) > len(messages[3]["content"])
