"""What decides a job's results, as flat names and values: equal fingerprints, equal answers.

Replicas, devices, tensor parallelism, batch sizes and where files lie are not part of it.
"""

import json
from typing import Any

import pyarrow as pa

from .checkpoint_info import CheckpointInfo
from .job import JobSpec
from .plan import Scalar

# Settings that older plans know nothing of: their default is what was done before.
NAMED_IF_SET = {
    ("classify", "function_to_apply"),
    ("classify", "top_k"),
    ("tag_tokens", "aggregation"),
    ("tag_tokens", "ignore_labels"),
    ("embed", "layer"),
    ("embed", "dtype"),
}


def fingerprint(spec: JobSpec, checkpoint: CheckpointInfo, kept: pa.Schema) -> dict[str, Scalar]:
    """Collect it from a job, its checkpoint, and the columns that it keeps."""
    values: dict[str, Scalar] = {
        "model": checkpoint.digest,
        "tokenizer": checkpoint.tokenizer_files.digest,
        "dtype": checkpoint.dtype,
        "quantization": checkpoint.quantization,
        "max_model_len": checkpoint.max_model_len,
        "prompt": spec.prompt,
        "prompt_column": spec.prompt_column,
        "messages": spec.messages,
        "chat": checkpoint.chat,
        "system": spec.system,
        "keep": ", ".join(f"{field.name}: {field.type}" for field in kept),
        "limit": spec.limit,
    }
    if spec.settings_column is not None:  # named only then, as older plans know nothing of it
        values["settings_column"] = spec.settings_column
    if spec.long_texts != "error":
        values |= {"long_texts": spec.long_texts, "stride": spec.stride}
    if checkpoint.adapter is not None:
        values["adapter"] = checkpoint.adapter.digest
    if spec.adapter_column is not None:
        values["adapter_column"] = spec.adapter_column
        for name, adapter in sorted(checkpoint.adapters.items()):
            values[f"adapters.{name}"] = adapter.digest
    for name in spec.tasks.names:
        values[f"tasks.{name}"] = True
        settings = getattr(spec.tasks, name)
        for key, value in settings.model_dump().items():
            if (name, key) in NAMED_IF_SET and value == type(settings).model_fields[key].default:
                continue
            values[f"tasks.{name}.{key}"] = _scalar(value)
    return values


def _scalar(value: Any) -> Scalar:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
