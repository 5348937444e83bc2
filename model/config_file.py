"""What a Gemma 2 config.json may say: each key is understood, known to be harmless, or refused."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import CheckpointError, ConfigError
from .params import one_line

StoredDType = Literal["bfloat16", "float32", "float16"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
TokenId = Annotated[int, Field(ge=0)]

# Keys that ask for a computation we don't have, unless they are null, false or empty.
REFUSED = {
    "add_cross_attention": "only decoder-only models are computed",
    "auto_map": "the checkpoint brings code of its own, which is never run",
    "compression_config": "compressed weights are not read; use the bfloat16 or float32 original",
    "is_encoder_decoder": "only decoder-only models are computed",
    "per_layer_config": "all layers must have the same shape",
    "pruned_heads": "all layers must have the same heads",
    "use_bidirectional_attention": "only causal attention is computed",
}

# Keys that have no part in what the model computes: how it was made, trained, saved or sampled.
# The last group are generation settings, which transformers also drops from a config.json.
IGNORED = frozenset(  # one string, because the list that ruff proposes is 80 lines long
    """
    transformers_version torchscript use_bfloat16 use_cache return_dict name_or_path
    output_attentions output_hidden_states chunk_size_feed_forward tokenizer_class prefix label2id
    finetuning_task task_specific_params is_decoder tie_encoder_decoder tf_legacy_loss
    attn_implementation experts_implementation unsloth_fixed unsloth_version
    tie_last_hidden_states pretraining_tp neftune_noise_alpha
    cross_attention_hidden_size decoder_start_token_id sep_token_id

    attention_dropout hidden_dropout classifier_dropout initializer_range

    cache_implementation assistant_confidence_threshold assistant_lookbehind bad_words_ids
    begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups
    num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p typical_p
    """.split()  # noqa: SIM905
)


class RopeFile(BaseModel):
    """The `rope_parameters` of new configs, `rope_scaling` of old ones: plain rotary only."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    rope_type: Literal["default"] | None = None
    type: Literal["default"] | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Literal[1] | None = None

    @model_validator(mode="after")
    def _plain(self) -> Self:
        extra = {key: value for key, value in (self.model_extra or {}).items() if value is not None}
        if extra:
            raise ValueError(f"only plain rotary embeddings are computed, got {extra!r}")
        return self


class ConfigFile(BaseModel):
    """config.json as it stands; keys that are absent have the defaults of Gemma2Config."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    architectures: list[str] | None = None
    vocab_size: Count = 256000
    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Annotated[int, Field(ge=1, le=10_000)] = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count = 4
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    max_position_embeddings: Count = 8192
    rms_norm_eps: Positive = 1e-6
    query_pre_attn_scalar: Positive = 256
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    # transformers reads hidden_activation alone. hidden_act is a leftover of Gemma 1, some of whose
    # files say "gelu" of weights that were trained with the tanh form.
    hidden_activation: Literal["gelu_pytorch_tanh"] | None = None
    hidden_act: Literal["gelu_pytorch_tanh", "gelu"] | None = None
    layer_types: list[Literal["full_attention", "sliding_attention", "attention"]] | None = None
    sliding_window: Count | None = None
    sliding_window_size: Count | None = None  # beside sliding_window in google/gemma-2-9b
    rope_theta: Positive | None = None
    rope_parameters: RopeFile | None = None
    rope_scaling: RopeFile | None = None
    partial_rotary_factor: Literal[1] | None = None
    pad_token_id: TokenId | None = 0
    bos_token_id: TokenId | None = 2
    eos_token_id: TokenId | list[TokenId] | None = 1
    dtype: StoredDType | None = None
    torch_dtype: StoredDType | None = None  # the spelling before transformers 4.56
    id2label: dict[int | str, str] | None = None
    num_labels: Count | None = None
    problem_type: ProblemType | None = None
    quantization_config: dict[str, Any] | None = None
    token_classification_bias: Literal[True] = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads ({self.num_key_value_heads}) must divide "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for "
                f"num_hidden_layers = {self.num_hidden_layers}"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if any(i >= self.vocab_size for i in token_ids(value)):
                raise ValueError(f"{name} ({value}) must be below vocab_size ({self.vocab_size})")
        return self


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        CheckpointError: the file is missing, can't be read, or doesn't hold an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """One token id, a list of them or none, as a tuple without repetitions."""
    if value is None:
        return ()
    return tuple(dict.fromkeys(value)) if isinstance(value, list) else (value,)


def read_config(values: dict[str, Any], *, source: str) -> ConfigFile:
    """Check the keys and values of a config.json.

    Raises:
        ConfigError: for another model_type, an unknown or refused key, or a value out of range.
    """
    if values.get("model_type") != "gemma2":
        raise ConfigError(
            f"{source}: model_type is {values.get('model_type')!r}; only 'gemma2' is supported"
        )
    for key, value in values.items():
        if key in REFUSED and value:
            raise ConfigError(f"{source}: {key} is {value!r}: {REFUSED[key]}")
        if not _known(key) and value not in (None, {}, []):
            raise ConfigError(
                f"{source}: unknown key {key} = {value!r} may change what the model computes; "
                "remove it if it does not"
            )
    try:
        return ConfigFile(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(f"{source}: {one_line(error)}") from None


def _known(key: str) -> bool:
    """Whether a key is understood or harmless; a leading underscore marks a library's own notes."""
    return (
        key == "model_type"
        or key in ConfigFile.model_fields
        or key in REFUSED
        or key in IGNORED
        or key.startswith("_")
    )
