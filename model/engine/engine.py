"""The engine as people use it: a list of prompts in, a list of results out."""

from collections.abc import Sequence
from typing import TypeVar

from model.errors import ParameterError, PromptError
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    GenerationOutput,
    LogprobsOutput,
    TaggingOutput,
    TaskOutput,
)
from model.params import SamplingParams
from model.tasks import Classify, Embed, Generate, Normalize, Pooling, PromptLogprobs, Task

from .core import EngineCore
from .request import Prompt

Output = TypeVar("Output", bound=TaskOutput)
# Of all prompts, or of each; None is the model alone.
AdapterChoice = str | None | Sequence[str | None]


class Engine(EngineCore):
    """Gemma 2 behind continuous batching.

    Not thread-safe: one thread drives it. `generate` and its siblings run a list of prompts to the
    end; `add_request`, `step` and `abort` are for those who feed it as they go.

    With several ranks the others are child processes under a watchdog: whatever ends or stops one
    of them ends them all, and raises EngineDeadError here.

    Args:
        config: what to build.
        on_stuck: called, in another thread, if rank 0 itself can't be freed from a step that the
            others have died in (on CUDA it may hang in the driver). Exiting the process is all that
            helps then. None logs it and leaves that to you.

    Raises on construction:
        CheckpointError, ConfigError, TokenizerError: what the checkpoint lacks or asks for.
        ParameterError: settings that this machine or this checkpoint can't meet.
        EngineDeadError: a rank of a tensor-parallel group did not start.
    """

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: AdapterChoice = None,
    ) -> list[GenerationOutput]:
        """Continue each prompt.

        Args:
            prompts: texts (taken as they are, behind one <bos>), lists of token ids, or lists of
                messages (through the chat template).
            params: one for all, or one for each; None is SamplingParams().
            adapter: the name of the adapter of all, or of each; so it is for the other tasks.

        Raises:
            PromptError: a prompt is empty, too long or malformed; names its position.
            ConstraintError: a constraint does not compile, or an answer can't go on under it.
        """
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise ParameterError(f"{len(prompts)} prompts but {len(params)} SamplingParams")
        return self._run(prompts, [Generate(p) for p in params], GenerationOutput, adapter)

    def classify(
        self, prompts: Sequence[Prompt], *, adapter: AdapterChoice = None
    ) -> list[ClassificationOutput]:
        """Score each prompt with the checkpoint's sequence classification head."""
        return self._run(prompts, [Classify()] * len(prompts), ClassificationOutput, adapter)

    def score_labels(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[str],
        normalize: Normalize = "sum",
        *,
        adapter: AdapterChoice = None,
    ) -> list[ClassificationOutput]:
        """Give each prompt the probability of each label as its continuation, over the labels."""
        task = self._factory.label_task(labels, normalize)
        return self._run(prompts, [task] * len(prompts), ClassificationOutput, adapter)

    def tag_tokens(
        self, texts: Sequence[str], *, adapter: AdapterChoice = None
    ) -> list[TaggingOutput]:
        """Find labelled spans in each text with the token classification head."""
        encoded = [self._factory.tag_task(text) for text in texts]
        prompts = [ids for ids, _ in encoded]
        return self._run(prompts, [task for _, task in encoded], TaggingOutput, adapter)

    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "last",
        normalize: bool = True,
        adapter: AdapterChoice = None,
    ) -> list[EmbeddingOutput]:
        """Pool the final hidden states of each prompt to a vector."""
        tasks = [Embed(pooling, normalize)] * len(prompts)
        return self._run(prompts, tasks, EmbeddingOutput, adapter)

    def logprobs(
        self, prompts: Sequence[Prompt], *, adapter: AdapterChoice = None
    ) -> list[LogprobsOutput]:
        """Give the log-probability of every token of each prompt."""
        return self._run(prompts, [PromptLogprobs()] * len(prompts), LogprobsOutput, adapter)

    def _run(
        self,
        prompts: Sequence[Prompt],
        tasks: Sequence[Task],
        kind: type[Output],
        adapter: AdapterChoice,
    ) -> list[Output]:
        """Compute one task on each prompt, all of them accepted before the first step."""
        if isinstance(prompts, str):
            raise ParameterError("prompts is a list: put the single prompt into one")
        if self.has_work:
            raise ParameterError("requests added by add_request are in progress: end those first")
        adapters = _each(adapter, len(prompts))
        order: dict[str, int] = {}
        try:
            for index, (prompt, task) in enumerate(zip(prompts, tasks, strict=True)):
                try:
                    name = self.add_request(prompt, [task], adapter=adapters[index])
                    order[name] = index
                except PromptError as error:
                    raise type(error)(f"prompts[{index}]: {error}") from None
            results: list[Output | None] = [None] * len(prompts)
            while order:
                for update in self.step():
                    if update.error is not None and update.request_id in order:
                        raise update.error
                    if update.output is not None and update.request_id in order:
                        result = update.output.results[0]
                        assert isinstance(result, kind)
                        results[order.pop(update.request_id)] = result
        finally:
            for request_id in order:
                self.abort(request_id)
        return [result for result in results if result is not None]


def _each(adapter: AdapterChoice, count: int) -> Sequence[str | None]:
    """Give the adapter of each of so many prompts."""
    if adapter is None or isinstance(adapter, str):
        return [adapter] * count
    if len(adapter) != count:
        raise ParameterError(f"{count} prompts but {len(adapter)} adapters")
    return adapter
