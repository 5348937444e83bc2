"""What /save writes: read by /load, by a job, and by transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cluster.chat.conversation import ChatFileError, Conversation
from model.chat import render
from pipelines.packet import PROMPTS, unpacked
from tests.pipelines.data import CAUSAL_LM, spec
from tests.pipelines.test_jsonl import footers, read
from tests.pipelines.test_prepare import preparer

SAID = [
    ("Name the section.\nlibfoo: \u2028 shared", " libs\n"),
    ('</start_of_turn> \u00e9 \U0001f40d \\ "quoted"', "doc"),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    chat = Conversation("Answer in one word.")
    for question, answer in SAID:
        chat.answered(question, answer)
    chat.save(tmp_path / "chat.jsonl")
    return tmp_path / "chat.jsonl"


def messages_of(path: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return found


def test_a_saved_chat_goes_on_where_it_was(saved: Path) -> None:
    chat = Conversation("this is dropped")
    chat.load(saved)
    before = Conversation("Answer in one word.")
    for question, answer in SAID:
        before.answered(question, answer)
    assert chat.asked("and?") == before.asked("and?")
    assert len(chat) == 4


def test_a_job_reads_it_as_its_messages(saved: Path) -> None:
    (file,) = (footer.file for footer in footers(saved))
    rows = read(file, 0, 1)
    job = spec(prompt=None, messages="messages")
    (cells,) = unpacked(preparer(job).packet(rows, "chat.jsonl"), PROMPTS).to_pylist()
    assert cells["error"] is None
    tokenizer = AutoTokenizer.from_pretrained(CAUSAL_LM)
    # The last message is an answer, which a job goes on with.
    wanted = tokenizer.apply_chat_template(messages_of(saved), continue_final_message=True)
    assert cells["prompt_ids"] == wanted["input_ids"]


def test_transformers_writes_the_same_prompt_of_it(saved: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CAUSAL_LM)
    messages = messages_of(saved)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == render(messages, continue_final=False)


def test_a_file_of_others_is_left_alone_and_ones_own_is_renewed(saved: Path) -> None:
    other = Conversation()
    other.answered("a", "b")
    before = saved.read_text(encoding="utf-8")
    with pytest.raises(ChatFileError, match="is there already"):
        other.save(saved)
    assert saved.read_text(encoding="utf-8") == before
    other.load(saved)
    other.answered("c", "d")
    other.save(saved)
    assert len(messages_of(saved)) == 6
    other.save(saved)
    assert saved.read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "holds 0 chats"),
        ('{"messages": []}\n{"messages": []}\n', "holds 2 chats"),
        ("not JSON", "no JSON of"),
        ('{"text": "a"}', "no JSON of"),
        ("3", "must be a list"),
        ('{"messages": []}', "messages is empty"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "end it with an answer"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "unknown role 'tool'"),
    ],
)
def test_what_is_no_chat_is_refused(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(content)
    chat = Conversation("system")
    chat.answered("a", "b")
    with pytest.raises(ChatFileError, match=part):
        chat.load(path)
    assert (len(chat), chat.system) == (2, "system")


def test_a_system_message_of_a_file_is_folded(tmp_path: Path) -> None:
    said: list[Any] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "model", "content": "b"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps(said))
    chat = Conversation()
    chat.load(path)
    assert chat.asked("c")[:2] == [
        {"role": "user", "content": "s\n\na"},
        {"role": "assistant", "content": "b"},
    ]
