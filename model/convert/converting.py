"""From one layout of Gemma 2 to another, bit for bit."""

from dataclasses import dataclass
from pathlib import Path

from model.aside import refuse_taken, written_aside
from model.errors import ParameterError

from .companions import (
    end_of_turn_id,
    find_tokenizer,
    generation_config,
    write_configs,
    write_tokenizer,
)
from .flax_files import save_flax
from .layouts import FLAX_SPARE_ROWS, flax_parts, gemma_pytorch_parts, transformers_parts
from .original import Layout, Original, check_convertible, open_original
from .parts import Part, assembler, their_metas
from .safetensors_files import save_safetensors
from .torch_files import SUFFIXES, save_folder, save_single

MAX_SHARD_BYTES = 5 * 10**9

# What a config.json says of the stored weights, which are others here.
_OF_THE_SOURCE = ("dtype", "torch_dtype", "quantization_config")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user may say of a conversion.

    Attributes:
        to: the layout to write.
        config: config.json of the model; None takes the one in its folder, or else lets shapes
            tell.
        tokenizer: its files; None takes those in its folder.
        instruct: the model was tuned for turns, also where its tokenizer files do not say so.
        max_shard_bytes: of one file of weights, and about what is in memory at a time. A tensor
            that is larger has a file of its own.
    """

    to: Layout = "transformers"
    config: Path | None = None
    tokenizer: Path | None = None
    instruct: bool = False
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted.

    Attributes:
        layout: that it had.
        size: "2B", "9B" or "27B"; None of another.
        dtype: of its weights.
        tensors: written.
        nbytes: of them.
        notes: what a user should know, one sentence each.
    """

    layout: Layout
    size: str | None
    dtype: str
    tensors: int
    nbytes: int
    notes: tuple[str, ...]


def convert(source: str, target: Path, wishes: Wishes | None = None) -> Converted:
    """Convert a checkpoint; `target` is there when this returns, and is not before.

    Args:
        source: see `open_original`.
        target: a folder; for gemma-pytorch also a file, by its suffix.
        wishes: None is all defaults.

    Raises:
        CheckpointError: the source is not what it should be, or the target can't be written.
        ConfigError, TokenizerError: what lies beside the weights can't be used.
        ParameterError: the source has the wished layout already, or tensorstore is missing.
    """
    wishes = wishes or Wishes()
    refuse_taken(target)
    original = open_original(source, wishes.config)
    if original.layout == wishes.to:
        raise ParameterError(f"{source} is in the layout of {wishes.to} already; see --to")
    parts = _target_parts(original, wishes.to)
    metas = their_metas(original.weights, parts)
    nbytes = sum(meta.nbytes for meta in metas.values())
    with written_aside(target, nbytes) as content:
        if wishes.to == "gemma-pytorch" and target.suffix in SUFFIXES:
            save_single(content, metas, assembler(original.weights, parts))
            notes = ["a single file holds weights alone; a folder has config and tokenizer too"]
        else:
            content.mkdir()
            notes = _write_folder(original, content, wishes, parts)
    return Converted(
        original.layout,
        original.size.name if original.size else None,
        _dtype_name(original),
        len(metas),
        nbytes,
        tuple(notes),
    )


def _write_folder(original: Original, folder: Path, wishes: Wishes, parts: list[Part]) -> list[str]:
    """Fill a folder, with config.json last; returns what a user should know."""
    notes: list[str] = []
    source = find_tokenizer(wishes.tokenizer, original.folder)
    tokenizer = None
    if source is None:
        notes.append("no tokenizer lies beside the weights: name one with --tokenizer")
    else:
        tokenizer = write_tokenizer(source, folder, instruct=wishes.instruct)
        if tokenizer is None:
            notes.append(
                "tokenizer.model is copied as it is: pip install sentencepiece, which reads it"
            )
    _write_weights(original, folder, wishes, parts)
    dtype = _dtype_name(original)
    if dtype == "float16":
        notes.append("the weights are in float16: run them with dtype bfloat16 or float32")
    values = {key: value for key, value in original.values.items() if key not in _OF_THE_SOURCE}
    values |= {"architectures": ["Gemma2ForCausalLM"], "torch_dtype": dtype}
    end = end_of_turn_id(tokenizer, instruct=wishes.instruct)
    write_configs(folder, values, generation_config(values, original.config_folder, end))
    return notes


def _write_weights(original: Original, folder: Path, wishes: Wishes, parts: list[Part]) -> None:
    metas, assemble = their_metas(original.weights, parts), assembler(original.weights, parts)
    if wishes.to == "flax":
        save_flax(folder, metas, assemble)
    elif wishes.to == "gemma-pytorch":
        save_folder(folder, metas, assemble, wishes.max_shard_bytes)
    else:
        save_safetensors(folder, metas, assemble, wishes.max_shard_bytes)


def _target_parts(original: Original, to: Layout) -> list[Part]:
    config, size = original.config, original.size
    if to == "transformers":
        return transformers_parts(config)
    check_convertible(config, to)
    if to == "gemma-pytorch":
        return gemma_pytorch_parts(config)
    rows = config.vocab_size + FLAX_SPARE_ROWS
    swapped_gating = size is not None and size.swapped_gating
    return flax_parts(config, rows=rows, swapped_gating=swapped_gating)


def _dtype_name(original: Original) -> str:
    return str(original.weights.dtype()).removeprefix("torch.")
