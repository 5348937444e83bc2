"""An engine in this process that answers, in a thread of its own."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from actors.engine_thread import EngineThread
from model import Engine
from model.config import ModelConfig
from model.errors import PromptError, TaskError
from model.locate import locate
from model.outputs import TokenDelta
from model.params import EngineConfig, SamplingParams
from model.tasks import Generate
from model.tokenizer import GemmaTokenizer, load_tokenizer

from .answering import Ending, Message, TooLongError

# More than any model's length: an answer ends where that does.
UNLIMITED = 1 << 20


class LocalModel:
    """An engine that keeps what it has computed of a chat: of each turn, only the new is computed.

    Args:
        config: what to build.

    Raises:
        GemmarayError: the checkpoint can't be used, or not for chats.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._tokenizer = _chat_tokenizer(config)
        self.name = Path(config.checkpoint).name
        self._thread = EngineThread(lambda: Engine(config))

    async def answer(
        self, messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> AsyncGenerator[str | Ending, None]:
        """Answer the last message; see Answerer."""
        params = SamplingParams(**{"max_tokens": UNLIMITED, **settings})
        ids = self._tokenizer.encode_messages(messages)
        reason: str | None = None
        async with aclosing(self._thread.stream(ids, [Generate(params)])) as items:
            try:
                async for item in items:
                    if isinstance(item, TokenDelta):
                        reason = item.finish_reason
                        if item.text:
                            yield item.text
            except PromptError as error:
                raise TooLongError(str(error)) from None
        yield Ending(cut=reason == "length")

    @property
    def reused_tokens(self) -> int:
        """Tokens of prompts that had been computed before."""
        return self._thread.counters().prefix_hit_tokens

    async def close(self) -> None:
        """End the engine."""
        self._thread.close()


def _chat_tokenizer(config: EngineConfig) -> GemmaTokenizer:
    """Look at a checkpoint before its weights are loaded."""
    folder = locate(config.checkpoint, config.revision)
    architecture = ModelConfig.from_folder(folder).architecture
    if architecture != "causal_lm":
        raise TaskError(
            f"a chat needs a causal_lm checkpoint; {config.checkpoint} is a {architecture} "
            "checkpoint"
        )
    tokenizer = load_tokenizer(folder)
    if tokenizer is None or not tokenizer.has_chat_template:
        raise TaskError(
            f"{config.checkpoint} has no chat template of Gemma's kind: continue texts with "
            "gemmaray generate, or take an instruction-tuned checkpoint (gemma-2-...-it)"
        )
    return tokenizer
