"""From options to a chat."""

import asyncio
import os
import sys
from typing import Any

from cluster.options import UsageError
from model.errors import ParameterError
from model.params import EngineConfig
from pipelines.errors import JobInterrupted

from .answering import Answerer
from .conversation import Conversation
from .options import ChatOptions
from .reading import reader_of
from .screen import Screen
from .session import Session
from .settings import checked
from .slash import COMMANDS, Commands

KEYS = ("GEMMARAY_API_KEY", "OPENAI_API_KEY")


def start_chat(options: ChatOptions, settings: dict[str, Any]) -> int:
    """Chat until the user leaves or standard input ends, and give the exit status.

    Args:
        options: checked.
        settings: fields of SamplingParams.

    Raises:
        GemmarayError: nobody can answer.
        JobInterrupted: Ctrl-C while a model loads, or where nobody is at a terminal.
    """
    checked(settings)
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    screen = Screen(quiet=options.quiet)
    commands = Commands(Conversation(options.system or ""), settings, screen)
    with asyncio.Runner() as runner:
        try:
            model = _model(options, runner, screen)
        except KeyboardInterrupt:
            raise JobInterrupted("interrupted") from None
        try:
            if typed:
                screen.note(f"{model.name} answers; /help lists commands, Ctrl-D leaves")
            reader = reader_of(typed=typed, commands=[*COMMANDS])
            return Session(model, commands, reader, screen, runner, typed=typed).run()
        finally:
            runner.run(model.close())


def _model(options: ChatOptions, runner: asyncio.Runner, screen: Screen) -> Answerer:
    if options.url is not None:
        from .remote import RemoteModel, find_model  # noqa: PLC0415 - the client takes a second

        key = _key(options)
        name = options.model or runner.run(find_model(options.url, key))
        return RemoteModel(options.url, name, key)
    from .local import LocalModel  # noqa: PLC0415 - brings torch

    assert options.model is not None
    screen.note(f"loading {options.model}")
    # One chat, and room for what it has been computed from before.
    values = {"schedule": "fcfs", "max_sequences": 2, **options.engine_values()}
    try:
        config = EngineConfig(checkpoint=options.model, **values)
    except ParameterError as error:
        raise ParameterError(str(error).removeprefix("EngineConfig: ")) from None
    return LocalModel(config)


def _key(options: ChatOptions) -> str | None:
    """Find the key to be let in with; no message shows any of it."""
    path = options.api_key_file
    if path is None:
        return next(filter(None, map(os.environ.get, KEYS)), None)
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {path} can't be read: {error}") from None
    if len(words) != 1:
        raise UsageError(
            f"--api-key-file: {path} must hold one key and nothing else; `gemmaray api-key` shows "
            "a key once, and its own file is the server's"
        )
    return words[0]
