"""The command over lines of a pipe, with the model that ships with the repository."""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.chat.local import LocalModel
from cluster.chat.reading import LineError, Piped
from model import Engine, EngineConfig, SamplingParams
from model.errors import TaskError
from tests.cluster.conftest import Command, Finished
from tests.cluster.readme_commands import REPOSITORY, run, shown

DEMO = REPOSITORY / "examples" / "demo-model"
MODEL = str(DEMO / "causal-lm")
QUESTION = "Name the section of this Debian package.\nlibfoo1: shared library"
# None of it is in the demo model's vocabulary, so each character is several tokens.
BYTES = "日本 🐍 né"

Chat = Callable[..., Finished]


@pytest.fixture
def chat(gemmaray: Command, monkeypatch: pytest.MonkeyPatch) -> Chat:
    def run(data: str | bytes, *arguments: str) -> Finished:
        lines = data if isinstance(data, bytes) else data.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return gemmaray("chat", *arguments)

    return run


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(EngineConfig(checkpoint=MODEL, threads=1)) as engine:
        yield engine


def test_the_readme_s_command_answers(tmp_path: Path) -> None:
    finished = run(shown("Chat in a terminal"), tmp_path)
    assert (finished.returncode, finished.stdout) == (0, "libs\n")


def test_each_turn_is_answered_from_all_before_it(chat: Chat, engine: Engine) -> None:
    turns = [QUESTION, "Why?", "libfoo-doc: documentation"]
    lines = "".join(f"{turn}\n".replace("\n", "\\\n", turn.count("\n")) for turn in turns)
    finished = chat(lines, "--model", MODEL, "--max-tokens", "9", "-q")
    messages: list[dict[str, str]] = []
    wanted = ""
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        (output,) = engine.generate([messages], SamplingParams(max_tokens=9))
        messages.append({"role": "assistant", "content": output.text})
        wanted += f"{output.text}\n"
    assert finished.out == wanted
    assert (finished.status, finished.err) == (0, "")


def test_an_adapter_changes_the_answers(chat: Chat) -> None:
    line = QUESTION.replace("\n", "\\\n") + "\n"
    adapter = str(DEMO / "adapters" / "upper")
    assert chat(line, "--model", MODEL, "--adapter", adapter, "-q").out == "LIBS\n"


def test_what_was_computed_of_a_chat_is_used_again() -> None:
    model = LocalModel(EngineConfig(checkpoint=MODEL, threads=1, schedule="fcfs", max_sequences=2))

    async def say(*contents: str) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
        pieces = [piece async for piece in model.answer(messages, {"max_tokens": 8})]
        return "".join(piece for piece in pieces if isinstance(piece, str))

    async def talk() -> list[int]:
        reused = [model.reused_tokens]
        long = "libfoo1: shared library " * 20
        answer = await say(long)
        await say(long, answer, "And now?")
        reused.append(model.reused_tokens)
        await model.close()
        return reused

    before, after = asyncio.run(talk())
    assert before == 0
    assert after >= 100


def test_characters_of_several_tokens_come_whole(chat: Chat) -> None:
    finished = chat("x\n", "--model", MODEL, "--choice", BYTES, "-q")
    assert finished == (0, f"{BYTES}\n", "")


def test_commands_work_through_a_pipe(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    finished = chat(
        f"/system Be brief.\n/set max_tokens 3\nhello\n/save {path}\n/reset\n/load {path}\nmore\n",
        "--model",
        MODEL,
    )
    assert finished.status == 0
    assert finished.out.count("\n") >= 2
    messages = json.loads(path.read_text())["messages"]
    assert messages[0] == {"role": "user", "content": "Be brief.\n\nhello"}
    assert f"saved 2 messages to {path}" in finished.err


def test_system_is_folded_into_the_first_message(chat: Chat, engine: Engine) -> None:
    first, _, second = QUESTION.partition("\n")
    finished = chat(f"{second}\n", "--model", MODEL, "--system", first, "-q")
    messages = [{"role": "user", "content": f"{first}\n\n{second}"}]
    assert finished.out == f"{engine.generate([messages])[0].text}\n"


def test_a_turn_that_fails_leaves_an_empty_line_and_the_chat_goes_on(chat: Chat) -> None:
    data = b"\xff\xfe\n" + b"x " * 9000 + b"\nhello\n/nonsense\n"
    finished = chat(data, "--model", MODEL, "--choice", "hi", "-q")
    assert finished.status == 1
    assert finished.out == "\nhi\n"
    first, second, third = finished.err.splitlines()
    assert first.startswith("error: a line is not valid UTF-8")
    assert "is the limit for prompt and answer" in second
    assert second.endswith("/reset begins a new chat")
    assert third.startswith("error: there is no command /nonsense")


def test_an_answer_that_can_not_have_its_form_is_an_error_of_its_message(chat: Chat) -> None:
    finished = chat("hello\n", "--model", MODEL, "--regex", "(", "-q")
    assert (finished.status, finished.out, finished.err.count("\n")) == (1, "\n", 1)
    assert "regex" in finished.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--model CHECKPOINT, or --url"),
        (("--model", "nowhere"), "nowhere"),
        (("--model", str(DEMO / "classifier")), "needs a causal_lm checkpoint"),
        (("--model", MODEL, "--temperature", "-1"), "temperature"),
        (("--model", MODEL, "--dtype", "float16"), "float16"),
        (("--model", MODEL, "--api-key-file", "f"), "goes with --url"),
        (("--url", "localhost:8000"), "as in http://host:8000/v1"),
        (("--url", "http://localhost:1/v1", "--dtype", "float32"), "--dtype is for an engine here"),
        (("--url", "http://localhost:1/v1", "--api-key-file", "nowhere"), "can't be read"),
        (("--url", "http://127.0.0.1:1/v1"), "http://127.0.0.1:1/v1 can't be reached"),
    ],
)
def test_a_user_error_is_one_line(chat: Chat, arguments: tuple[str, ...], part: str) -> None:
    finished = chat("hello\n", "-q", *arguments)
    assert (finished.status, finished.out, finished.err.count("\n")) == (2, "", 1)
    assert finished.err.startswith("gemmaray: error: ")
    assert part in finished.err


def test_models_without_turns_are_told_what_they_can_do(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in DEMO.joinpath("causal-lm").iterdir():
        (base / file.name).symlink_to(file)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (base / "tokenizer_config.json").unlink()
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TaskError, match=r"no chat template .* gemmaray generate"):
        LocalModel(EngineConfig(checkpoint=str(base)))


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n\nb\r\n", ["a", "", "b"]),
        (b"a\\\nb\\\nc\nd\n", ["a\nb\nc", "d"]),
        (b"a\\\n", ["a"]),
        (b"a\\", ["a"]),
        ("é\u2028b\\\n🐍".encode(), ["é\u2028b\n🐍"]),
    ],
)
def test_lines_become_messages(data: bytes, messages: list[str]) -> None:
    reader = Piped(io.BytesIO(data))
    assert [*iter(reader.read, None)] == messages


def test_a_line_that_is_no_text_costs_itself_alone() -> None:
    reader = Piped(io.BytesIO(b"\xff\nb\n"))
    with pytest.raises(LineError):
        reader.read()
    assert reader.read() == "b"
