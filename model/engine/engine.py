"""The engine as people use it: a list of prompts in, a list of results out."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from model.errors import ParameterError, PromptError
from model.long_texts import Frame, LongTexts, WindowedPrompt, fit
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    GenerationOutput,
    HiddenStatesOutput,
    LogprobsOutput,
    TaggingOutput,
    TaskOutput,
)
from model.params import SamplingParams
from model.tasks import (
    Aggregation,
    Classify,
    Embed,
    FunctionToApply,
    Generate,
    Normalize,
    Pooling,
    PromptLogprobs,
    TagTokens,
    Task,
)

from .request import Prompt
from .windowed import WindowedEngine

Output = TypeVar("Output", bound=TaskOutput)
REFUSED = LongTexts()
# Of all prompts, or of each; None is the model alone.
AdapterChoice = str | None | Sequence[str | None]


class Engine(WindowedEngine):
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
        self,
        prompts: Sequence[Prompt],
        *,
        function_to_apply: FunctionToApply = "default",
        long_texts: LongTexts = REFUSED,
        adapter: AdapterChoice = None,
    ) -> list[ClassificationOutput]:
        """Score each prompt with the checkpoint's sequence classification head.

        Args:
            prompts: as for `generate`.
            function_to_apply: from the head's outputs to scores.
            long_texts: what becomes of prompts that are too long.
            adapter: as for `generate`.
        """
        task = Classify(function_to_apply)
        fitted = self._fitted(prompts, long_texts)
        return self._run(fitted, [task] * len(prompts), ClassificationOutput, adapter)

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
        self,
        texts: Sequence[str],
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Sequence[str] = ("O",),
        long_texts: LongTexts = REFUSED,
        adapter: AdapterChoice = None,
    ) -> list[TaggingOutput]:
        """Find labelled spans in each text with the token classification head.

        Args:
            texts: taken as they are, behind `<bos>`.
            aggregation: how tokens become spans; see model.tagging.entities_of.
            ignore_labels: labels that make no span.
            long_texts: what becomes of texts that are too long.
            adapter: as for `generate`.
        """
        long_texts.check(self.max_model_len)
        prompts: list[Prompt] = []
        tasks: list[Task] = []
        for text in texts:
            ids, offsets = self._factory.tokenizer.encode_with_offsets(text)
            fitted = fit(ids, self.max_model_len, long_texts, Frame())
            prompts.append(fitted.prompt)
            places = tuple(offsets[: fitted.kept])
            tasks.append(TagTokens(text, places, aggregation, tuple(ignore_labels)))
        return self._run(prompts, tasks, TaggingOutput, adapter)

    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "last",
        normalize: bool = True,
        layer: int = -1,
        long_texts: LongTexts = REFUSED,
        adapter: AdapterChoice = None,
    ) -> list[EmbeddingOutput]:
        """Pool hidden states of each prompt to a vector.

        Args:
            prompts: as for `generate`.
            pooling: which tokens'; for those of every token there is `hidden_states`.
            normalize: give unit length.
            layer: as transformers numbers hidden states: 0 the embeddings, -1 the last.
            long_texts: what becomes of prompts that are too long.
            adapter: as for `generate`.
        """
        if pooling == "none":
            raise ParameterError("embed gives one vector: for one per token take hidden_states")
        task = Embed(pooling, normalize, layer)
        fitted = self._fitted(prompts, long_texts)
        return self._run(fitted, [task] * len(prompts), EmbeddingOutput, adapter)

    def hidden_states(
        self,
        prompts: Sequence[Prompt],
        *,
        normalize: bool = False,
        layer: int = -1,
        long_texts: LongTexts = REFUSED,
        adapter: AdapterChoice = None,
    ) -> list[HiddenStatesOutput]:
        """Give the hidden state of each token of each prompt; arguments as for `embed`."""
        task = Embed("none", normalize, layer)
        fitted = self._fitted(prompts, long_texts)
        return self._run(fitted, [task] * len(prompts), HiddenStatesOutput, adapter)

    def logprobs(
        self, prompts: Sequence[Prompt], *, adapter: AdapterChoice = None
    ) -> list[LogprobsOutput]:
        """Give the log-probability of every token of each prompt."""
        return self._run(prompts, [PromptLogprobs()] * len(prompts), LogprobsOutput, adapter)

    def _fitted(self, prompts: Sequence[Prompt], long_texts: LongTexts) -> Sequence[Prompt]:
        """Cut prompts that are too long, if that is wanted."""
        if long_texts.mode == "error":
            return prompts
        long_texts.check(self.max_model_len)
        return [self._cut(prompt, long_texts) for prompt in prompts]

    def _cut(self, prompt: Prompt, long_texts: LongTexts) -> Prompt:
        if isinstance(prompt, WindowedPrompt):
            return prompt
        ids = self._factory.encode(prompt)
        is_chat = not isinstance(prompt, str) and isinstance(prompt[0], Mapping)
        if self.tokenizer is None or not is_chat:
            frame = Frame.of_tokens(ids, self.model_config.bos_token_id)
        else:
            frame = Frame.of_chat(ids, self.tokenizer)
        return fit(ids, self.max_model_len, long_texts, frame).prompt

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
