"""A checkpoint in any of the layouts, opened: what it is, and its weights under our names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.config import ModelConfig
from model.config_file import read_json_object
from model.errors import CheckpointError, ConfigError
from model.locate import locate
from model.weight_files import INDEX as SAFETENSORS_INDEX
from model.weight_files import SINGLE, some

from . import torch_files
from .companions import CONFIG
from .flax_files import FlaxFiles, is_flax
from .layouts import (
    FLAX_SPARE_ROWS,
    FREQUENCIES,
    flax_dimensions,
    flax_parts,
    gemma_pytorch_dimensions,
    gemma_pytorch_parts,
    has_swapped_gating,
    transformers_parts,
)
from .parts import Meta, Weights
from .safetensors_files import SafetensorsFiles
from .sizes import VOCABULARY, Dimensions, Size, known, published_config
from .torch_files import TorchFiles

Layout = Literal["transformers", "gemma-pytorch", "flax"]


@dataclass(frozen=True, slots=True)
class Original:
    """What is converted.

    Attributes:
        layout: of its files.
        folder: where it lies; of a single file, the folder that holds it.
        weights: under our names.
        config: the checkpoint, in our words.
        values: its config.json.
        config_folder: where that is from; None if shapes told.
    """

    layout: Layout
    folder: Path
    weights: Weights
    config: ModelConfig
    values: dict[str, Any]
    config_folder: Path | None

    @property
    def size(self) -> Size | None:
        """The published size that it has, if it has one."""
        return known(_dimensions(self.config))


def open_original(source: str, config: Path | None) -> Original:
    """Find out what a checkpoint is, and check names, shapes and dtypes of all that it holds.

    Args:
        source: a file or a folder; of a checkpoint in transformers' layout also a hub id or s3://.
        config: its config.json; None takes the one in its folder, or else lets shapes tell.

    Raises:
        CheckpointError: it is damaged, incomplete, surplus, unsafe or of no known size.
        ConfigError: the config asks for what a layout can't hold.
        ParameterError: it is Flax and tensorstore is not installed.
    """
    path = Path(source).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        raise CheckpointError(f"{path} is one file of a checkpoint: name the folder that it is in")
    if path.is_file():
        return _gemma_pytorch(path, config)
    if path.is_dir() and not _has_safetensors(path):
        if (path / torch_files.INDEX).is_file():
            return _gemma_pytorch(path, config)
        if is_flax(path):
            return _flax(path, config)
        if single := _only_file(path):
            return _gemma_pytorch(single, config)
    return _transformers(locate(source), config)


def check_convertible(config: ModelConfig, layout: str) -> None:
    """Refuse what gemma_pytorch's and Flax's layouts have no place for.

    Raises:
        ConfigError: the model has another head, an output layer of its own, or biases.
    """
    lacking = None
    if config.architecture != "causal_lm":
        lacking = f"a {config.architecture} head"
    elif not config.tie_word_embeddings:
        lacking = "an output layer apart from the embedding (tie_word_embeddings = false)"
    elif config.attention_bias:
        lacking = "attention_bias"
    if lacking:
        raise ConfigError(f"the layout of {layout} has no place for {lacking}")


def _transformers(folder: Path, config: Path | None) -> Original:
    values, config_folder = _config_values(folder, config)
    if values is None:
        raise CheckpointError(f"{folder} has no {CONFIG}")
    checked = ModelConfig.from_dict(values, source=str(config or folder / CONFIG))
    stray = ["lm_head.weight"] if checked.tie_word_embeddings else []
    weights = Weights(SafetensorsFiles(folder), transformers_parts(checked), stray)
    return Original("transformers", folder, weights, checked, values, config_folder)


def _gemma_pytorch(path: Path, config: Path | None) -> Original:
    folder = path if path.is_dir() else path.parent
    stored = TorchFiles(path)
    values, config_folder = _config_values(folder, config)
    if values is None:
        dimensions = gemma_pytorch_dimensions(stored.metas, stored.place)
        vocabulary = _rows(stored.metas, "embedder.weight", stored.place)
        values = published_config(dimensions, vocabulary, stored.place)
    checked = _checked(values, config or folder / CONFIG, "gemma-pytorch")
    weights = Weights(stored, gemma_pytorch_parts(checked), [FREQUENCIES])
    return Original("gemma-pytorch", folder, weights, checked, values, config_folder)


def _flax(folder: Path, config: Path | None) -> Original:
    stored = FlaxFiles(folder)
    values, config_folder = _config_values(folder, config)
    rows = _rows(stored.metas, "embedder.input_embedding", stored.place)
    if values is None:
        dimensions = flax_dimensions(stored.metas, stored.place)
        spare = rows == VOCABULARY + FLAX_SPARE_ROWS
        values = published_config(dimensions, VOCABULARY if spare else rows, stored.place)
    checked = _checked(values, config or folder / CONFIG, "flax")
    expected = checked.vocab_size + FLAX_SPARE_ROWS
    parts = flax_parts(
        checked,
        rows=rows if rows == checked.vocab_size else expected,
        swapped_gating=has_swapped_gating(stored.metas, checked, stored.place),
    )
    return Original("flax", folder, Weights(stored, parts), checked, values, config_folder)


def _config_values(folder: Path, config: Path | None) -> tuple[dict[str, Any] | None, Path | None]:
    """The config.json to go by, and its folder; Google's own folders may have a different one."""
    path = config or folder / CONFIG
    if config is None and not path.is_file():
        return None, None
    values = read_json_object(path)
    if config is None and "model_type" not in values:
        return None, None
    return values, path.parent


def _checked(values: dict[str, Any], source: Path, layout: str) -> ModelConfig:
    config = ModelConfig.from_dict(values, source=str(source))
    check_convertible(config, layout)
    return config


def _dimensions(config: ModelConfig) -> Dimensions:
    return Dimensions(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )


def _rows(metas: dict[str, Meta], name: str, place: str) -> int:
    if name not in metas or len(metas[name].shape) != 2:
        raise CheckpointError(f"{place} has no embedding [vocabulary, hidden] called {name}")
    return metas[name].shape[0]


def _has_safetensors(folder: Path) -> bool:
    return (folder / SINGLE).is_file() or (folder / SAFETENSORS_INDEX).is_file()


def _only_file(folder: Path) -> Path | None:
    """The single file of a folder as it is downloaded, beside a tokenizer and a model card."""
    files = sorted(path for path in folder.iterdir() if path.suffix == ".ckpt")
    if len(files) > 1:
        names = some([path.name for path in files])
        raise CheckpointError(f"{folder} holds {names}; name the file that is to be converted")
    return files[0] if files else None
