"""In which format a checkpoint's weights are stored, and where which can be computed with."""

from typing import Any

from .errors import ConfigError, ParameterError
from .params import Quantization, WeightFormat

OURS: tuple[WeightFormat, ...] = ("int8", "int4", "fp8")
VERSION = 1
# Modules that are not among the layers' linears, and are never quantized.
_HEADS = {"lm_head", "score", "model.embed_tokens", "embed_tokens"}
_READ = "read are quant_method 'bitsandbytes' (8 bits, or 4 of type nf4) and 'gemmaray'"


def read_quantization(values: dict[str, Any] | None, *, source: str) -> Quantization:
    """Say in which format the layers' weights are stored; "none" where nothing is said.

    Raises:
        ConfigError: in one that is not read.
    """
    if not values:
        return "none"
    method = values.get("quant_method")
    if method == "bitsandbytes":
        return _bitsandbytes(values, source)
    if method != "gemmaray":
        raise ConfigError(
            f"{source}: quantization_config has quant_method {method!r}: {_READ}; "
            "use the bfloat16 or float32 original"
        )
    for name in OURS:
        if values.get("format") == name and values.get("version") == VERSION:
            return name
    raise ConfigError(
        f"{source}: quantization_config has format {values.get('format')!r} in version "
        f"{values.get('version')!r}; known are {', '.join(OURS)} in version {VERSION}"
    )


def write_quantization(name: WeightFormat) -> dict[str, Any]:
    """Give the `quantization_config` of weights in this format; bitsandbytes' own for its formats.

    The keys of those are transformers' `BitsAndBytesConfig`.
    """
    if name in OURS:
        return {"quant_method": "gemmaray", "format": name, "version": VERSION}
    four = name == "bnb-nf4"
    values: dict[str, Any] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": four,
        "load_in_8bit": not four,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        # Else transformers quantizes the head of a token classifier.
        "llm_int8_skip_modules": ["lm_head", "score"],
        "llm_int8_enable_fp32_cpu_offload": False,
    }
    if four:
        values |= {
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
        }
    return values


def check_device(quantization: Quantization, device_type: str) -> None:
    """Raise ParameterError if devices of this type can't compute with such weights."""
    if quantization == "fp8" and device_type != "cuda":
        raise ParameterError(
            "quantization='fp8' needs a CUDA device of compute capability 8.9 or more (Ada, "
            f"Hopper), not {device_type}; use 'int8' or 'none', and of a checkpoint that is in fp8 "
            "already the original"
        )


def _bitsandbytes(values: dict[str, Any], source: str) -> Quantization:
    """Read bitsandbytes' keys; its threshold and its dtype of computation have no part in ours."""
    skipped = set(values.get("llm_int8_skip_modules") or ())
    if layers := sorted(skipped - _HEADS):
        raise ConfigError(
            f"{source}: quantization_config has llm_int8_skip_modules {layers}: checkpoints with "
            "some layers quantized and others not are not read"
        )
    if values.get("load_in_8bit"):
        return "bnb-int8"
    if not values.get("load_in_4bit"):
        raise ConfigError(f"{source}: quantization_config says neither load_in_8bit nor _4bit")
    for key, read in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_quant_storage", "uint8")):
        if values.get(key, read) != read:
            raise ConfigError(
                f"{source}: quantization_config has {key} {values[key]!r}; only {read!r} is read"
            )
    return "bnb-nf4"
