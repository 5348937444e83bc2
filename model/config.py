"""What one Gemma 2 checkpoint is: its shapes, constants and head, from its config.json."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from .batch import LayerKind
from .config_file import (
    ConfigFile,
    ProblemType,
    StoredDType,
    TokenId,
    read_config,
    read_json_object,
    token_ids,
)
from .errors import ConfigError, ParameterError
from .params import FLOAT16_REFUSED, DType, Quantization
from .quantization_config import read_quantization

Architecture = Literal["causal_lm", "sequence_classification", "token_classification"]
ComputeDType = Literal["bfloat16", "float32"]

# A bare backbone has tied embeddings, which make it a language model as well.
_ARCHITECTURES: dict[str, Architecture] = {
    "Gemma2ForCausalLM": "causal_lm",
    "Gemma2ForSequenceClassification": "sequence_classification",
    "Gemma2ForTokenClassification": "token_classification",
    "Gemma2Model": "causal_lm",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shapes and constants of one checkpoint, checked and in one spelling.

    Attributes:
        num_key_value_heads: divides num_attention_heads.
        head_dim: even.
        attn_logit_softcapping: scores s become cap * tanh(s / cap); None leaves them.
        final_logit_softcapping: the same for logits over the vocabulary.
        query_pre_attn_scalar: scores are divided by its square root.
        sliding_window: keys that a query of a sliding layer sees, itself included.
        layer_types: one per layer.
        eos_token_ids: what ends an answer; empty when nothing does.
        dtype: of the stored weights.
        quantization: in what form the layers' weights are stored.
        labels: of the classification head, in the order of its outputs; empty without one.
        problem_type: what a sequence classification head was trained for, if that was recorded.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    query_pre_attn_scalar: float
    sliding_window: int
    layer_types: tuple[LayerKind, ...]
    tie_word_embeddings: bool
    attention_bias: bool
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    dtype: StoredDType
    quantization: Quantization
    architecture: Architecture
    labels: tuple[str, ...]
    problem_type: ProblemType | None

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str) -> Self:
        """Read the contents of a config.json.

        Absent keys take the defaults of transformers' Gemma2Config. A file without a dtype counts
        as float32, which holds weights of any supported type exactly.

        Args:
            values: the parsed file.
            source: where it came from, for messages.

        Raises:
            ConfigError: a value is wrong, or asks for something that is not computed here.
        """
        file = read_config(values, source=source)
        architecture = _architecture(file, source)
        layer_types = _layer_types(file)
        return cls(
            vocab_size=file.vocab_size,
            hidden_size=file.hidden_size,
            intermediate_size=file.intermediate_size,
            num_hidden_layers=file.num_hidden_layers,
            num_attention_heads=file.num_attention_heads,
            num_key_value_heads=file.num_key_value_heads,
            head_dim=file.head_dim,
            max_position_embeddings=file.max_position_embeddings,
            rms_norm_eps=file.rms_norm_eps,
            rope_theta=_rope_theta(file, source),
            attn_logit_softcapping=file.attn_logit_softcapping,
            final_logit_softcapping=file.final_logit_softcapping,
            query_pre_attn_scalar=file.query_pre_attn_scalar,
            sliding_window=_sliding_window(file, layer_types, source),
            layer_types=layer_types,
            tie_word_embeddings=file.tie_word_embeddings,
            attention_bias=file.attention_bias,
            pad_token_id=file.pad_token_id,
            bos_token_id=file.bos_token_id,
            eos_token_ids=token_ids(file.eos_token_id),
            dtype=file.dtype or file.torch_dtype or "float32",
            quantization=read_quantization(file.quantization_config, source=source),
            architecture=architecture,
            labels=() if architecture == "causal_lm" else _labels(file, source),
            problem_type=file.problem_type,
        )

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a config.json.

        Raises:
            CheckpointError: the file is missing or not a JSON object.
            ConfigError: as `from_dict`.
        """
        return cls.from_dict(read_json_object(path), source=str(path))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a checkpoint's config.json; the end tokens of a generation_config.json replace its.

        Raises as `from_file`.
        """
        config = cls.from_file(folder / "config.json")
        path = folder / "generation_config.json"
        if not path.exists():
            return config
        ids = read_eos_token_ids(read_json_object(path), source=str(path))
        if any(i >= config.vocab_size for i in ids):
            raise ConfigError(
                f"{path}: eos_token_id {list(ids)} must be below vocab_size ({config.vocab_size})"
            )
        return replace(config, eos_token_ids=ids) if ids else config

    def window(self, kind: LayerKind) -> int | None:
        """Keys that a query of such a layer sees, itself included; None for all up to itself."""
        return self.sliding_window if kind == "sliding_attention" else None

    def model_len(self, requested: int | None) -> int:
        """The most tokens of prompt and answer: what was asked for, within the config's limit."""
        return min(requested or self.max_position_embeddings, self.max_position_embeddings)

    def compute_dtype(self, requested: DType) -> ComputeDType:
        """The dtype to compute in: what was asked for, or with "auto" the stored one.

        Raises:
            ParameterError: for "auto" when the weights are stored in float16.
        """
        if requested != "auto":
            return requested
        if self.dtype == "float16":
            raise ParameterError(
                f"the checkpoint is stored in float16, so dtype 'auto' can't be used: "
                f"{FLOAT16_REFUSED}"
            )
        return self.dtype

    def compute_quantization(self, requested: Quantization) -> Quantization:
        """The form of the layers' weights: what was asked for, or that in which they are stored.

        Raises:
            ParameterError: they are stored in another one than was asked for.
        """
        if self.quantization == "none":
            return requested
        if requested not in ("none", self.quantization):
            raise ParameterError(
                f"the checkpoint's weights are in {self.quantization} already, so quantization "
                f"{requested!r} can't be used: leave it out, or use the original checkpoint"
            )
        return self.quantization


def read_eos_token_ids(values: dict[str, Any], *, source: str) -> tuple[int, ...]:
    """End tokens of a generation_config.json; empty if it names none.

    Raises:
        ConfigError: they are not token ids.
    """
    kind = TypeAdapter[int | list[int] | None](TokenId | list[TokenId] | None)
    try:
        return token_ids(kind.validate_python(values.get("eos_token_id"), strict=True))
    except ValidationError:
        raise ConfigError(
            f"{source}: eos_token_id is {values.get('eos_token_id')!r}; "
            "it must be a token id or a list of them"
        ) from None


def _architecture(file: ConfigFile, source: str) -> Architecture:
    """The head that the checkpoint has; a causal LM where the file doesn't say."""
    names = file.architectures or ["Gemma2ForCausalLM"]
    if len(names) != 1 or names[0] not in _ARCHITECTURES:
        raise ConfigError(
            f"{source}: architectures is {names!r}; supported is one of {', '.join(_ARCHITECTURES)}"
        )
    if names[0] == "Gemma2Model" and not file.tie_word_embeddings:
        raise ConfigError(
            f"{source}: architectures is {names!r} with tie_word_embeddings = false, "
            "so the checkpoint has no output layer; only tied backbones are supported"
        )
    return _ARCHITECTURES[names[0]]


def _layer_types(file: ConfigFile) -> tuple[LayerKind, ...]:
    """Each layer's kind; sliding layers come first where the file doesn't say."""
    if file.layer_types is None:
        alternating: tuple[LayerKind, LayerKind] = ("sliding_attention", "full_attention")
        return tuple(alternating[i % 2] for i in range(file.num_hidden_layers))
    return tuple("full_attention" if kind == "attention" else kind for kind in file.layer_types)


def _sliding_window(file: ConfigFile, layer_types: tuple[LayerKind, ...], source: str) -> int:
    """The window; fine-tunes change sliding_window and leave the sliding_window_size they found."""
    stated = file.sliding_window or file.sliding_window_size
    if stated is not None:
        return stated
    if "sliding_attention" not in layer_types:
        return file.max_position_embeddings
    if "sliding_window" in file.model_fields_set:
        raise ConfigError(f"{source}: sliding_window is null but layer_types has sliding layers")
    return 4096


def _rope_theta(file: ConfigFile, source: str) -> float:
    spelled = {"rope_theta": file.rope_theta}
    if file.rope_parameters is not None:
        spelled["rope_parameters.rope_theta"] = file.rope_parameters.rope_theta
    if file.rope_scaling is not None:
        spelled["rope_scaling.rope_theta"] = file.rope_scaling.rope_theta
    stated = {name: theta for name, theta in spelled.items() if theta is not None}
    if len(set(stated.values())) > 1:
        told = ", ".join(f"{name} = {theta}" for name, theta in stated.items())
        raise ConfigError(f"{source}: {told} contradict each other; keep the one that is right")
    return next(iter(stated.values()), 10_000.0)


def _labels(file: ConfigFile, source: str) -> tuple[str, ...]:
    """Names of the head's outputs; two of them where the file doesn't say, as in transformers."""
    if file.id2label is None:
        labels = tuple(f"LABEL_{i}" for i in range(file.num_labels or 2))
    else:
        names = {str(index): label for index, label in file.id2label.items()}
        if set(names) != {str(i) for i in range(len(names))} or not names:
            raise ConfigError(f"{source}: id2label must name labels 0, 1, ..., got {names!r}")
        labels = tuple(names[str(i)] for i in range(len(names)))
    if file.num_labels not in (None, len(labels)):
        raise ConfigError(
            f"{source}: num_labels is {file.num_labels} but id2label has {len(labels)}"
        )
    if file.problem_type == "single_label_classification" and len(labels) == 1:
        raise ConfigError(f"{source}: problem_type single_label_classification needs two labels")
    return labels
