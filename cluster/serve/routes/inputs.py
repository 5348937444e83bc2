"""What requests give as input, as prompts."""

from collections.abc import Sequence

from actors.calls import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from cluster.serve.protocol.base import Inputs
from cluster.serve.protocol.chat import Message


def prompts_of(inputs: Inputs, *, add_bos: bool = True) -> list[Prompt]:
    """Give the prompts of an input: a text, token ids, or a list of either."""
    if isinstance(inputs, str):
        return [TextPrompt(inputs, add_bos)]
    ids: list[int] = []
    prompts: list[Prompt] = []
    for item in inputs:
        if isinstance(item, int):
            ids.append(item)
        elif isinstance(item, str):
            prompts.append(TextPrompt(item, add_bos))
        else:
            prompts.append(TokenPrompt(tuple(item)))
    return prompts or [TokenPrompt(tuple(ids))]


def chat_prompt(messages: Sequence[Message], *, continue_final: bool) -> ChatPrompt:
    """Give the prompt of a conversation."""
    return ChatPrompt(tuple(message.plain() for message in messages), continue_final)
