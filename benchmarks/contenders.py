"""The engines that are compared, each behind the same call."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typing_extensions import override

from model import Engine, EngineConfig, SamplingParams
from model.config import ModelConfig
from model.errors import GemmarayError
from model.params import Device, DType

from .workloads import Request

Name = Literal["gemmaray", "transformers"]
Answers = list[list[int]]


class BenchmarkError(GemmarayError):
    """A comparison that can't be made, or an engine that did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Which engine, and how it is to be run.

    Attributes:
        name: of the engine.
        checkpoint: a local folder.
        dtype: of weights and activations.
        device: "cpu" or "cuda".
        threads: CPU threads.
        batch: requests of a static batch (transformers).
        settings: further fields of EngineConfig (gemmaray).
    """

    name: Name
    checkpoint: Path
    dtype: DType
    device: Device
    threads: int
    batch: int = 32
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        """Whether the checkpoint answers with a label instead of tokens; ConfigError if neither."""
        config = ModelConfig.from_folder(self.checkpoint)
        return config.architecture == "sequence_classification"


class Contender(Protocol):
    """A loaded engine.

    Attributes:
        version: of the package.
        variant: settings that a reader of the figures has to know.
    """

    version: str
    variant: str

    def run(self, requests: Sequence[Request]) -> Answers:
        """Answer all requests: token ids each, or the index of one label."""

    def close(self) -> None:
        """End what it started."""


def load(spec: Spec) -> Contender:
    """Load an engine."""
    return Gemmaray(spec) if spec.name == "gemmaray" else Transformers(spec)


class Gemmaray(Contender):
    """This project's engine: the blocking calls, on token ids."""

    def __init__(self, spec: Spec) -> None:
        self.variant = " ".join(f"{key}={value}" for key, value in spec.settings.items())
        try:
            self.version = version("gemmaray")
        except PackageNotFoundError:  # run from a folder, not installed
            self.version = "0"
        self._classifies = spec.classifies
        self.engine = Engine(
            EngineConfig(
                checkpoint=str(spec.checkpoint),
                dtype=spec.dtype,
                device=spec.device,
                threads=spec.threads,
                **spec.settings,
            )
        )

    @override
    def run(self, requests: Sequence[Request]) -> Answers:
        prompts = [request.prompt for request in requests]
        if self._classifies:
            labels = self.engine.model_config.labels
            return [[labels.index(out.label)] for out in self.engine.classify(prompts)]
        params = [SamplingParams(max_tokens=r.output_len, ignore_eos=True) for r in requests]
        return [list(output.token_ids) for output in self.engine.generate(prompts, params)]

    @override
    def close(self) -> None:
        self.engine.close()


class Transformers(Contender):
    """transformers with static batches in order of arrival, padded, eager attention.

    Each batch is generated to its longest answer; tokens past a request's own are dropped.
    """

    def __init__(self, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)
        self.version = transformers.__version__
        self.variant = f"static b{spec.batch} eager"
        self._batch = spec.batch
        self._device = torch.device(spec.device)
        self._classifies = spec.classifies
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        auto: Any = AutoModelForSequenceClassification if self._classifies else AutoModelForCausalLM
        model = auto.from_pretrained(
            spec.checkpoint, dtype=getattr(torch, spec.dtype), attn_implementation="eager"
        )
        self._model = model.to(self._device).eval()
        if not self._classifies:
            self._model.generation_config.eos_token_id = None  # go on past the end tokens

    @override
    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> Answers:
        answers: Answers = []
        answer = self._classify if self._classifies else self._generate
        for start in range(0, len(requests), self._batch):
            answers += answer(requests[start : start + self._batch])
        return answers

    @override
    def close(self) -> None:
        """Nothing to end."""

    def _generate(self, requests: Sequence[Request]) -> Answers:
        ids, mask = self._padded(requests, left=True)
        longest = max(request.output_len for request in requests)
        out = self._model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=longest
        )
        rows = out[:, ids.shape[1] :].tolist()
        return [row[: r.output_len] for row, r in zip(rows, requests, strict=True)]

    def _classify(self, requests: Sequence[Request]) -> Answers:
        ids, mask = self._padded(requests, left=False)
        answers: Answers = self._model(ids, attention_mask=mask).logits.argmax(-1)[:, None].tolist()
        return answers

    def _padded(
        self, requests: Sequence[Request], *, left: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(request.prompt) for request in requests)
        ids = torch.full((len(requests), width), self._model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            length = len(request.prompt)
            where = slice(width - length, width) if left else slice(0, length)
            ids[row, where] = torch.tensor(request.prompt)
            mask[row, where] = 1
        return ids.to(self._device), mask.to(self._device)
