r"""Gemma 2's chat template as code: messages in, the pieces of the prompt out.

Google's template (`chat_template` of google/gemma-2-2b-it's tokenizer_config.json) writes, after
`<bos>` and for each message,

    <start_of_turn>ROLE\nCONTENT<end_of_turn>\n

with the role assistant spelled model and the content stripped, and then `<start_of_turn>model\n`.
It is rendered here and not by Jinja, so that no template runs code (CVE-2024-34359), so that what
the template lets pass by accident is refused by name (`tool` where an assistant should be, content
that is null or a list), and so that control tokens stay apart from text until both are token ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from .errors import ChatError

SystemPolicy = Literal["reject", "fold"]

ROLES = {"user": "user", "assistant": "model", "model": "model"}
# "developer" is the name that OpenAI's newer clients give to the system role.
SYSTEM_ROLES = ("system", "developer")


class Control(StrEnum):
    """The control tokens that the template places; in a prompt's text they are only text."""

    BOS = "<bos>"
    START_OF_TURN = "<start_of_turn>"
    END_OF_TURN = "<end_of_turn>"


class Turn(NamedTuple):
    """One rendered message: `role` is "user" or "model", `text` is stripped."""

    role: str
    text: str


def text_fault(text: object) -> str | None:
    """What makes `text` unusable in a prompt, worded to follow its name; None if nothing does."""
    if not isinstance(text, str):
        return f"must be text, not {type(text).__name__}"
    if (place := text.find("\0")) >= 0:
        return f"holds a NUL character at position {place}; remove it"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate at position {error.start}, half a character; remove it"
    return None


def render(
    messages: object, *, system: SystemPolicy = "reject", continue_final: bool | None = None
) -> str:
    """The prompt as one string, for people to read; see `prompt_pieces`."""
    return "".join(prompt_pieces(messages, system=system, continue_final=continue_final))


def prompt_pieces(
    messages: object, *, system: SystemPolicy = "reject", continue_final: bool | None = None
) -> list[Control | str]:
    """The prompt for `messages`: control tokens, and between two of them one piece of text.

    A piece must be encoded whole, since merges run across the newline after the role.

    Args:
        messages: `{"role": ..., "content": ...}` mappings, roles alternating between user and
            assistant (or model), the first one the user's. Content is a string, or a list of
            `{"type": "text", "text": ...}` parts, which are joined by newlines. Other keys must be
            null, as they are where Parquet or a client fills up a fixed schema.
        system: "reject" refuses a system message, as the template does; "fold" puts the text of a
            first one before that of the first user message, with a blank line between them.
        continue_final: True leaves the last message, the assistant's, open so that the model
            carries on with it; False closes it and opens another model turn; None is True where
            the last message is the assistant's.

    Raises:
        ChatError: naming the message that breaks a rule.
    """
    turns = parse(messages, system=system)
    last_is_model = turns[-1].role == "model"
    if continue_final and not last_is_model:
        raise ChatError("the last message is the user's: there is no assistant message to continue")
    if not last_is_model or continue_final is False:
        turns.append(Turn("model", ""))

    pieces: list[Control | str] = [Control.BOS]
    for turn in turns:
        pieces += [Control.START_OF_TURN, f"{turn.role}\n{turn.text}", Control.END_OF_TURN, "\n"]
    # The last turn is the model's and stays open. Where its text is empty, transformers'
    # continue_final_message strips the newline after the role too; no model has seen such a turn.
    return pieces[:-2]


def parse(messages: object, *, system: SystemPolicy = "reject") -> list[Turn]:
    """Check the messages and bring them to turns: user, model, user, ... and at least one.

    Raises:
        ChatError: naming the message that breaks a rule.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ChatError(f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise ChatError("messages is empty; give at least one user message")

    spoken = [_spoken(message, f"messages[{n}]") for n, message in enumerate(messages)]
    first_turn = 1 if spoken[0].role in SYSTEM_ROLES else 0
    if first_turn and system == "reject":
        raise ChatError(
            "messages[0]: System role not supported by Gemma 2's chat template; choose "
            "`system: fold` to have its text put before the first user message"
        )
    turns = list(_alternating(spoken, first_turn))
    if first_turn:
        if not turns:
            raise ChatError("messages[0]: a system message needs a user message after it")
        turns[0] = Turn("user", f"{spoken[0].text}\n\n{turns[0].text}".strip())
    return turns


def _alternating(spoken: list[Turn], first: int) -> Iterator[Turn]:
    """The turns from `first` on, user and model by turns."""
    for n, (role, text) in enumerate(spoken[first:]):
        where = f"messages[{first + n}]"
        if role in SYSTEM_ROLES:
            raise ChatError(f"{where}: role {role!r} is only possible in the first message")
        expected = "model" if n % 2 else "user"
        if ROLES[role] != expected:
            raise ChatError(
                f"{where}: Conversation roles must alternate user/assistant/user/assistant/... "
                f"starting with user, but this one is {role!r}"
            )
        yield Turn(expected, text)


def _spoken(message: object, where: str) -> Turn:
    """One message with its role as it was written."""
    if not isinstance(message, Mapping):
        raise ChatError(f"{where} must be an object with role and content, not {_kind(message)}")
    for key, value in message.items():
        if key not in {"role", "content"} and value is not None:
            raise ChatError(
                f"{where}: unknown field {_quoted(key)}; only role and content are used"
            )
    role = message.get("role")
    if role is None:
        raise ChatError(f"{where}: role is missing; it must be user or assistant")
    if not isinstance(role, str) or (role not in ROLES and role not in SYSTEM_ROLES):
        raise ChatError(f"{where}: unknown role {_quoted(role)}; it must be user or assistant")
    content = message.get("content")
    if content is None:
        raise ChatError(f"{where}: content is missing or null; it must be text")
    return Turn(role, _text(content, f"{where}.content").strip())


def _text(content: object, where: str) -> str:
    """The content as one string."""
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        if not content:
            raise ChatError(f"{where} is an empty list; it must be text")
        return "\n".join(_part(part, f"{where}[{n}]") for n, part in enumerate(content))
    if fault := text_fault(content):
        raise ChatError(f"{where} {fault}")
    return str(content)


def _part(part: object, where: str) -> str:
    """The text of one part of a content list."""
    if not isinstance(part, Mapping):
        raise ChatError(f"{where} must be an object with type and text, not {_kind(part)}")
    kind = part.get("type")
    if kind != "text":
        raise ChatError(f"{where}: type {_quoted(kind)} can't be used; Gemma 2 reads text only")
    for key, value in part.items():
        if key not in {"type", "text"} and value is not None:
            raise ChatError(f"{where}: unknown field {_quoted(key)}; only type and text are used")
    text = part.get("text")
    if fault := text_fault(text):
        raise ChatError(f"{where}.text {fault}")
    return str(text)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _quoted(value: object) -> str:
    """Something a user wrote, on one line and short."""
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
