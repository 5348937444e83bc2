"""Turns, commands and errors, with a model that says what it is told to."""

import os
import signal
import sys
from pathlib import Path

import pytest

from cluster.chat.answering import AnswerError, TooLongError
from cluster.chat.conversation import Conversation
from cluster.chat.settings import NAMES
from cluster.chat.slash import COMMANDS
from model.params import SamplingParams
from pipelines.errors import JobInterrupted

from .scripted import Scripted, chatted

Captured = pytest.CaptureFixture[str]


class Interrupting(Scripted):
    """Presses Ctrl-C behind the piece of this number."""

    def __init__(self, *pieces: str, after: int) -> None:
        super().__init__(*pieces)
        self._after = after

    async def answer(self, messages, settings):  # type: ignore[no-untyped-def]
        number = 0
        if self._after == 0:
            os.kill(os.getpid(), signal.SIGINT)
        async for piece in super().answer(messages, settings):
            yield piece
            number += 1
            if number == self._after:
                os.kill(os.getpid(), signal.SIGINT)


def test_answers_go_to_standard_output_and_the_chat_grows(capsys: Captured) -> None:
    model = Scripted("one ", "two")
    status, _ = chatted(model, "a", "  ", "b")
    assert (status, capsys.readouterr().out) == (0, "one two\none two\n")
    roles = [[message["role"] for message in messages] for messages, _ in model.asked]
    assert roles == [["user"], ["user", "assistant", "user"]]
    assert [message["content"] for message in model.asked[1][0]] == ["a", "one two", "b"]


def test_the_system_text_goes_into_the_first_message(capsys: Captured) -> None:
    model = Scripted("x")
    chatted(model, "a", "/system be brief", "b", "/reset", "c", "/system", "d")
    assert [messages[0]["content"] for messages, _ in model.asked] == [
        "a", "be brief\n\na", "be brief\n\nc", "c",
    ]  # fmt: skip
    assert [len(messages) for messages, _ in model.asked] == [1, 3, 1, 3]
    assert "the system text stays" in capsys.readouterr().err


def test_settings_reach_the_model_and_go_back(capsys: Captured) -> None:
    model = Scripted("x")
    lines = [
        "/set temperature 0.7",
        "/set stop END OF",
        "/set seed 3",
        "a",
        "/set",
        "/set seed none",
        "b",
    ]
    chatted(model, *lines)
    assert model.asked[0][1] == {"temperature": 0.7, "stop": "END OF", "seed": 3}
    assert model.asked[1][1] == {"temperature": 0.7, "stop": "END OF"}
    told = " ".join(capsys.readouterr().err.split())
    assert "max_tokens all that there is room for, temperature 0.7, top_p 1.0" in told


def test_every_setting_is_one_of_the_engine_s() -> None:
    assert set(NAMES) <= SamplingParams.model_fields.keys()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/nonsense", "no command /nonsense"),
        ("/etc/passwd what is it", "// begins a message"),
        ("/set warmth 3", "no setting 'warmth'; there are max_tokens, temperature"),
        ("/set temperature", "give temperature a value"),
        ("/set temperature hot", "temperature is a number, not 'hot'"),
        ("/set temperature true", "is a number"),
        ("/set temperature -1", "temperature: Input should be greater than or equal to 0"),
        ("/set top_k 0.5", "top_k: Input should be a valid integer"),
        ("/save", "say which file"),
        ("/save x", "nothing to save yet"),
        ("/load nowhere", "nowhere can't be read"),
        ("/reset now", "/reset takes nothing"),
    ],
)
def test_a_wrong_command_is_one_line_and_the_chat_goes_on(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Scripted("answer")
    status, commands = chatted(model, line, "a")
    out, err = capsys.readouterr()
    assert (status, out) == (1, "answer\n")
    assert err.startswith("error: ")
    assert part in err
    assert err.count("\n") == 1
    assert commands.settings == {}
    assert chatted(model, line, typed=True)[0] == 0


def test_two_slashes_begin_a_message(capsys: Captured) -> None:
    model = Scripted("x")
    assert chatted(model, "//etc/passwd // what")[0] == 0
    assert model.asked[0][0][0]["content"] == "/etc/passwd // what"


def test_nothing_behind_exit_is_read(capsys: Captured) -> None:
    model = Scripted("x")
    assert chatted(model, "/exit", "a")[0] == 0
    assert not model.asked


def test_help_names_every_command(capsys: Captured) -> None:
    chatted(Scripted(), "/help")
    err = capsys.readouterr().err
    assert all(f"{name} {takes}".strip() in err for name, (takes, _) in COMMANDS.items())


def test_what_has_no_answer_is_not_kept(capsys: Captured) -> None:
    model = Scripted("be", AnswerError("it broke off"))
    status, commands = chatted(model, "a")
    assert status == 1
    assert capsys.readouterr() == ("be\n", "error: it broke off\n")
    assert len(commands.conversation) == 0


def test_a_chat_that_is_too_long_can_be_begun_anew(capsys: Captured) -> None:
    chatted(Scripted(TooLongError("9,000 tokens are too many")), "a")
    assert capsys.readouterr().err == "error: 9,000 tokens are too many; /reset begins a new chat\n"


def test_an_answer_that_was_cut_off_says_so(capsys: Captured) -> None:
    chatted(Scripted("x", cut=True), "a")
    assert "/set max_tokens N allows more" in capsys.readouterr().err


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(capsys: Captured) -> None:
    model = Interrupting("one ", "two", "three", after=2)
    status, commands = chatted(model, "a", "b", typed=True)
    assert status == 0
    assert commands.conversation.asked("c")[1]["content"] == "one two"
    assert len(model.asked) == 2
    assert "stopped; what was said is kept" in capsys.readouterr().err


def test_ctrl_c_before_a_word_leaves_the_chat_as_it_was(capsys: Captured) -> None:
    _, commands = chatted(Interrupting("one", after=0), "a", typed=True)
    assert len(commands.conversation) == 0
    assert capsys.readouterr().out == ""


def test_ctrl_c_at_the_prompt_says_how_to_leave(capsys: Captured) -> None:
    model = Scripted("x")
    assert chatted(model, KeyboardInterrupt, "a", typed=True)[0] == 0
    assert len(model.asked) == 1
    assert "Ctrl-D" in capsys.readouterr().err


def test_ctrl_c_ends_a_chat_through_a_pipe(capsys: Captured) -> None:
    with pytest.raises(JobInterrupted):
        chatted(Interrupting("one", "two", after=1), "a", "b")
    assert capsys.readouterr().out == "one\n"


def test_what_can_be_no_message_is_refused() -> None:
    for text in ("a\0b", "\ud800"):
        with pytest.raises(ValueError, match="messages"):
            Conversation().asked(text)


def test_no_model_controls_the_terminal(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "a\x1b[2J\x07\x9b31m\r\b\té\n"
    chatted(Scripted(hostile, AnswerError(hostile)), "a")
    out, err = capsys.readouterr()
    assert out == f"{hostile}\n"  # what reads a pipe gets what was said
    assert not {"\x1b", "\x07", "\x9b", "\r", "\b"} & set(err)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    chatted(Scripted(hostile), "a")
    assert capsys.readouterr().out == "a\ufffd[2J\ufffd\ufffd31m\ufffd\ufffd\té\n\n"
