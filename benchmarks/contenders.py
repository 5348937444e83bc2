"""This project's engine as a contender; its rivals are in `peers`."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from typing_extensions import override

from model import Engine, EngineConfig, SamplingParams
from model.config import ModelConfig

from .spec import Answers, Contender, Request, Spec

__all__ = ["Gemmaray", "Spec"]


class Gemmaray(Contender):
    """The blocking calls, on token ids; the settings are fields of EngineConfig."""

    def __init__(self, spec: Spec) -> None:
        self.settings = " ".join(f"{key}={value}" for key, value in spec.settings.items())
        self.precision = spec.setting("quantization", None) or spec.dtype
        try:
            self.version = version("gemmaray")
        except PackageNotFoundError:  # run from a folder, not installed
            self.version = "0"
        config = ModelConfig.from_folder(spec.checkpoint)
        self._classifies = config.architecture == "sequence_classification"
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
        self.engine.forget_prefixes()  # of a run before this one, with the same prompts
        prompts = [request.prompt for request in requests]
        if self._classifies:
            labels = self.engine.model_config.labels
            return [[labels.index(out.label)] for out in self.engine.classify(prompts)]
        params = [SamplingParams(max_tokens=r.output_len, ignore_eos=True) for r in requests]
        return [list(output.token_ids) for output in self.engine.generate(prompts, params)]

    @override
    def close(self) -> None:
        self.engine.close()
