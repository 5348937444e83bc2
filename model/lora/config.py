"""What an adapter_config.json may say: each key is understood, known to be harmless, or refused.

The fields are those of PEFT's `LoraConfig`, of any of its versions.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.config import Architecture
from model.config_file import read_json_object
from model.errors import CheckpointError
from model.params import one_line

CONFIG = "adapter_config.json"

# Of whose heads an adapter is; None and FEATURE_EXTRACTION leave it to the model.
_TASKS: dict[str, Architecture] = {
    "CAUSAL_LM": "causal_lm",
    "SEQ_CLS": "sequence_classification",
    "TOKEN_CLS": "token_classification",
}
# Keys that ask for a computation we don't have, unless they are null, false or empty.
_REFUSED = {
    "alora_invocation_tokens": "adapters that begin amid a prompt (aLoRA) are not computed",
    "arrow_config": "routing between adapters (Arrow) is not computed",
    "fan_in_fan_out": "Gemma 2 keeps its weights as [outputs, inputs]",
    "kasa_config": "singular values beside the matrices (KaSA) are not computed",
    "layer_replication": "layers are not repeated",
    "lora_bias": "biases of the low-rank matrices are not computed",
    "lora_ga_config": "its base was changed when it was made; save it converted to plain LoRA",
    "megatron_config": "Megatron's layers are not those of Gemma 2",
    "monteclora_config": "MonteCLoRA is not computed",
    "target_parameters": "only the projections of the layers can be adapted",
    "trainable_token_indices": "embeddings can't be adapted",
    "use_bdlora": "block-diagonal matrices (BD-LoRA) are not computed",
    "use_dora": "magnitudes (DoRA) are not computed",
    "use_qalora": "pooled inputs (QA-LoRA) are not computed",
    "velora_config": "VeLoRA is not computed",
}
# Keys that matter to training, or to how the file was made.
_IGNORED = frozenset(
    """
    auto_mapping base_model_name_or_path bdlora_config corda_config ensure_weight_tying eva_config
    inference_mode layers_pattern lora_dropout loftq_config megatron_core peft_version
    qalora_group_size revision runtime_config
    """.split()  # noqa: SIM905
)
# Ways to begin that leave the base's weights alone; the others (PiSSA, OLoRA, ...) take from them
# what the adapter begins with, so the adapter fits the rest and not the base.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

Rank = Annotated[int, Field(ge=1, le=65536)]


class AdapterConfig(BaseModel):
    """adapter_config.json as it stands; keys that are absent have the defaults of LoraConfig."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    peft_type: str | None = None
    task_type: str | None = None
    r: Rank = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True
    bias: str = "none"

    @property
    def architecture(self) -> Architecture | None:
        """The head of the models that it is for, as far as it says."""
        return _TASKS.get(self.task_type or "")

    def rank(self, module: str) -> int:
        """Return R of a module, such as model.layers.0.mlp.up_proj."""
        return _matched(self.rank_pattern, module) or self.r

    def scaling(self, module: str) -> float:
        """Return what its product is multiplied with: alpha / R, or alpha / sqrt(R) (rsLoRA)."""
        alpha = _matched(self.alpha_pattern, module)
        alpha = self.lora_alpha if alpha is None else alpha
        rank = self.rank(module)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))

    def must_adapt(self, module: str) -> bool:
        """Whether a file without this module is not whole.

        Only of lists of plain names that hold for all layers can that be said.
        """
        targets = self.target_modules
        if isinstance(targets, str) or self.exclude_modules or self.layers_to_transform is not None:
            return False
        return any(module == name or module.endswith(f".{name}") for name in targets or ())


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read an adapter's config.

    Raises:
        CheckpointError: it is missing or malformed, or asks for what is not computed here.
    """
    path = folder / CONFIG
    values = read_json_object(path)
    if values.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: peft_type is {values.get('peft_type')!r}; only 'LORA' is computed"
        )
    for key, value in values.items():
        if key in _REFUSED and value:
            raise CheckpointError(f"{path}: {key} is {value!r}: {_REFUSED[key]}")
        if not _known(key) and value not in (None, False, {}, []):
            raise CheckpointError(
                f"{path}: unknown key {key} = {value!r} may change what the adapter computes; "
                "remove it if it does not"
            )
    try:
        config = AdapterConfig(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from None
    _check(config, path)
    return config


def _check(config: AdapterConfig, path: Path) -> None:
    for pattern in (*(config.rank_pattern or ()), *(config.alpha_pattern or ())):
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{path}: {pattern!r} is no pattern: {error}") from None
    if config.bias != "none":
        raise CheckpointError(f"{path}: bias is {config.bias!r}; only 'none' is computed")
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {config.init_lora_weights!r}, which changed the base "
            "model: save the adapter again with path_initial_model_for_weight_conversion"
        )
    surplus = set(config.modules_to_save or ()) - {"score", "classifier"}
    if surplus:
        raise CheckpointError(
            f"{path}: modules_to_save has {', '.join(sorted(surplus))}; only a classification "
            "head's score can be replaced"
        )


def _matched(patterns: dict[str, Any] | None, module: str) -> Any:
    """Return the value of the first pattern that the end of a module's name matches, as in PEFT."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None


def _known(key: str) -> bool:
    return key in AdapterConfig.model_fields or key in _REFUSED or key in _IGNORED
