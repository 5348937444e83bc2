"""What lies beside the weights: config.json, generation_config.json and the tokenizer."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.config_file import read_json_object
from model.errors import TokenizerError
from model.tokenizer import (
    CONFIG_FILE,
    SENTENCEPIECE_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    GemmaTokenizer,
)

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
PUBLISHED_END_OF_TURN = 107
_TOKEN_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}

_TOKENIZER_FILES = (
    TOKENIZER_FILE,
    SENTENCEPIECE_FILE,
    CONFIG_FILE,
    TEMPLATE_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)

# google/gemma-2-2b-it's and its siblings', for those who read the checkpoint with transformers.
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def find_tokenizer(given: Path | None, beside: Path) -> Path | None:
    """Find tokenizer files: a folder that has them, or a single file of either kind.

    Args:
        given: by the user; None looks in `beside`.
        beside: the folder of the weights.

    Raises:
        TokenizerError: nothing of the kind is where the user said.
    """
    place = given or beside
    if place.is_dir() and any(
        (place / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE)
    ):
        return place
    if place.is_file() and (place.name == TOKENIZER_FILE or place.suffix == ".model"):
        return place
    if given is not None:
        raise TokenizerError(
            f"{given} has no tokenizer: name a folder with {TOKENIZER_FILE} or "
            f"{SENTENCEPIECE_FILE}, or one of these files"
        )
    return None


def write_tokenizer(source: Path, folder: Path, *, instruct: bool) -> GemmaTokenizer | None:
    """Put tokenizer files into a folder, a SentencePiece model also in the form of tokenizer.json.

    Args:
        source: what `find_tokenizer` found.
        folder: where they go.
        instruct: a chat template is written where there is none.

    Returns:
        The tokenizer as it can be read from the folder; None for a SentencePiece model that lies
        there as it is, because the sentencepiece package is missing.

    Raises:
        TokenizerError: they can't be read or are not Gemma's.
    """
    if source.is_dir():
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        is_model = source.suffix == ".model"
        shutil.copyfile(source, folder / (SENTENCEPIECE_FILE if is_model else TOKENIZER_FILE))
    if not (folder / TOKENIZER_FILE).exists():
        if find_spec("sentencepiece") is None:
            return None
        _convert_sentencepiece(folder)
    tokenizer = GemmaTokenizer.from_folder(folder)
    if instruct and not tokenizer.has_chat_template:
        (folder / TEMPLATE_FILE).write_text(_CHAT_TEMPLATE, encoding="utf-8")
        tokenizer = GemmaTokenizer.from_folder(folder)
    return tokenizer


def write_configs(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> None:
    """Write both configs; config.json last, since without it a folder is no checkpoint."""
    for name, values in ((GENERATION_CONFIG, generation), (CONFIG, config)):
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def generation_config(
    config: dict[str, Any], beside: Path | None, end_of_turn: int | None
) -> dict[str, Any]:
    """What generation_config.json says: the one beside the config, or one made of the config.

    Args:
        config: the contents of config.json.
        beside: the folder that it is from; None for a config of our own.
        end_of_turn: a token that ends answers as well.

    Raises:
        CheckpointError: the file that is there can't be read.
    """
    if beside is not None and (beside / GENERATION_CONFIG).is_file():
        values = read_json_object(beside / GENERATION_CONFIG)
    else:
        values = {name: config.get(name, default) for name, default in _TOKEN_IDS.items()}
        values["cache_implementation"] = "hybrid"
    if end_of_turn is not None:
        ends = values.get("eos_token_id", _TOKEN_IDS["eos_token_id"])
        listed = ends if isinstance(ends, list) else [ends]
        values["eos_token_id"] = list(dict.fromkeys([*listed, end_of_turn]))
    return values


def end_of_turn_id(tokenizer: GemmaTokenizer | None, *, instruct: bool) -> int | None:
    """The token that ends a turn, where the model was made for turns."""
    if tokenizer is None:
        return PUBLISHED_END_OF_TURN if instruct else None
    return tokenizer.end_of_turn_id if instruct or tokenizer.has_chat_template else None


def _convert_sentencepiece(folder: Path) -> None:
    """Let transformers write tokenizer.json and tokenizer_config.json beside tokenizer.model."""
    from transformers import GemmaTokenizer as Converter  # noqa: PLC0415 - it takes seconds

    try:
        # Its docstring calls that the default, which it is not.
        converted = Converter.from_pretrained(folder, local_files_only=True, add_bos_token=True)
        converted.save_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - a damaged file surfaces as almost any exception
        raise TokenizerError(f"{SENTENCEPIECE_FILE} can't be converted: {error}") from None
