"""What a job needs to know of its model before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import Architecture, ComputeDType, ModelConfig
from model.errors import ParameterError, TaskError
from model.identity import identify
from model.locate import hub_commit, locate
from model.params import EngineConfig, Quantization
from model.tokenizer import GemmaTokenizer

from .adapters import AdapterInfo, adapted, inspect_adapter
from .job import JobSpec
from .tokenizer_files import TokenizerFiles

NEEDS: dict[str, Architecture] = {
    "generate": "causal_lm",
    "score_labels": "causal_lm",
    "classify": "sequence_classification",
    "tag_tokens": "token_classification",
}


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint, found and looked at.

    Attributes:
        checkpoint: what replicas are to load: an absolute folder, a hub id, or an S3 URI.
        revision: of a hub id: the commit that was found, so that all replicas load the same.
        digest: tells checkpoints apart.
        config: its config.json.
        dtype: that is computed in.
        quantization: of the layers' weights.
        max_model_len: most tokens of prompt and answer.
        tokenizer_files: for those who tokenize elsewhere.
        chat: whether prompts go through the chat template.
        adapter: merged into it, if any is.
        adapters: kept beside it, by name.
    """

    checkpoint: str
    revision: str | None
    digest: str
    config: ModelConfig
    dtype: ComputeDType
    quantization: Quantization
    max_model_len: int
    tokenizer_files: TokenizerFiles
    chat: bool
    adapter: AdapterInfo | None = None
    adapters: Mapping[str, AdapterInfo] = field(default_factory=dict)

    @property
    def tokenizer(self) -> GemmaTokenizer:
        """Its tokenizer."""
        return self.tokenizer_files.load()

    def engine_config(self, spec: JobSpec, **changes: Any) -> EngineConfig:
        """Give the settings of one replica's engine, wherever it runs, some of them replaced."""
        return spec.engine_config(
            self.checkpoint,
            self.revision,
            adapter=self.adapter.path if self.adapter else None,
            adapters={name: adapter.path for name, adapter in self.adapters.items()},
            **changes,
        )


def inspect_checkpoint(spec: JobSpec) -> CheckpointInfo:
    """Find a job's checkpoint, and check that it can do what the job asks.

    Raises:
        CheckpointError, ConfigError, TokenizerError: it can't be used at all.
        ParameterError, TaskError: it can't do this job.
    """
    folder = locate(spec.model, spec.revision)
    config = adapted(ModelConfig.from_folder(folder), spec.adapter)
    for name in spec.tasks.names:
        if NEEDS.get(name, config.architecture) != config.architecture:
            raise TaskError(
                f"{name} needs a {NEEDS[name]} checkpoint; {spec.model} is a "
                f"{config.architecture} checkpoint"
            )
    files = TokenizerFiles.of(folder)
    is_folder = Path(spec.model).expanduser().is_dir()
    return CheckpointInfo(
        checkpoint=str(folder.absolute()) if is_folder else spec.model,
        revision=None if is_folder else hub_commit(folder) or spec.revision,
        digest=identify(folder),
        config=config,
        dtype=config.compute_dtype(spec.resources.dtype),
        quantization=config.compute_quantization(spec.resources.quantization),
        max_model_len=config.model_len(spec.resources.max_model_len),
        tokenizer_files=files,
        chat=_uses_chat(spec, files.load()),
        adapter=inspect_adapter(spec.adapter, config) if spec.adapter is not None else None,
        adapters={name: inspect_adapter(path, config) for name, path in spec.adapters.items()},
    )


def _uses_chat(spec: JobSpec, tokenizer: GemmaTokenizer) -> bool:
    wanted = spec.chat == "chat" or spec.messages is not None
    if wanted and not tokenizer.has_chat_template:
        raise ParameterError(
            f"{spec.model} has no chat template of Gemma's kind: give a prompt or prompt_column "
            "with chat: raw, or take an instruction-tuned checkpoint (gemma-2-...-it)"
        )
    automatic = spec.chat == "auto" and not spec.tasks.tag_tokens
    return wanted or (automatic and tokenizer.has_chat_template)
