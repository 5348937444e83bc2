"""A request from its prompt and tasks to its output."""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from model.batch import BASE
from model.config import Architecture, ModelConfig
from model.constrain import Constraints, Guide
from model.errors import ParameterError, PromptError, TaskError
from model.long_texts import WindowedPrompt
from model.outputs import RequestOutput, TokenDelta
from model.pooling import Scores, inner_layer
from model.sampling import check_token_ids, child_seed
from model.tasks import (
    Classify,
    Embed,
    Generate,
    Normalize,
    PromptLogprobs,
    ScoreLabels,
    TagTokens,
    Task,
)
from model.tokenizer import GemmaTokenizer

from .completion import CompletionReader
from .head_readers import ClassifyReader, EmbedReader, HiddenStatesReader, TagReader
from .readers import GenerateReader, LogprobsReader, ScoreLabelsReader, TaskReader
from .sequence import deepest

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Messages | WindowedPrompt

_NEEDS: dict[type[Task], Architecture] = {
    Generate: "causal_lm",
    ScoreLabels: "causal_lm",
    PromptLogprobs: "causal_lm",
    Classify: "sequence_classification",
    TagTokens: "token_classification",
}


@dataclass(slots=True)
class Request:
    """What is being computed for one caller.

    Attributes:
        request_id: its name.
        prompt: its tokens.
        readers: one per task.
        stream: whether tokens are reported as they are drawn.
        salt: prompts share what is computed of them only with those of the same salt.
        adapter: the number of its adapter, or BASE.
        guides: of its answers, as far as they are constrained.
    """

    request_id: str
    prompt: list[int]
    readers: list[TaskReader]
    stream: bool = False
    salt: bytes = b""
    adapter: int = BASE
    guides: list[Guide] = field(init=False)
    _sent: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        guides = [completion.guide for completion in self._completions()]
        self.guides = [guide for guide in guides if guide is not None]

    @property
    def compiling(self) -> "Future[Any] | None":
        """What has to be compiled before it can begin, if that is not done yet."""
        return next((g.compiled for g in self.guides if not g.compiled.done()), None)

    @property
    def prefix_salt(self) -> bytes:
        """What the names of its prompt's pages begin with: an adapter's keys are its own."""
        if self.adapter == BASE:
            return self.salt
        return sha256(b"adapter %d:" % self.adapter + self.salt).digest()

    def branch_lengths(self) -> list[int]:
        """Return the most tokens that each continuation of the prompt stores."""
        return [length for reader in self.readers for length in reader.branch_lengths()]

    def first_row(self) -> int:
        """Return the first position of the prompt that a task needs the values of."""
        return min(reader.first_row() for reader in self.readers)

    def deltas(self) -> tuple[TokenDelta, ...]:
        """Return what was added since the last call, if the request streams."""
        if not self.stream:
            return ()
        deltas = []
        for index, completion in enumerate(self._completions()):
            if index == len(self._sent):
                self._sent.append((0, 0))
            tokens, characters = self._sent[index]
            ids, text = completion.token_ids[tokens:], completion.text[characters:]
            if ids:
                logprobs = completion.logprobs(tokens)
                reason = completion.finish_reason
                deltas.append(TokenDelta(index, tuple(ids), text, logprobs, reason))
                self._sent[index] = (len(completion.token_ids), len(completion.text))
        return tuple(deltas)

    def result(self) -> RequestOutput:
        """Return the output, once everything is computed."""
        results = tuple(reader.result() for reader in self.readers)
        return RequestOutput(self.request_id, len(self.prompt), results)

    def _completions(self) -> list[CompletionReader]:
        return [
            completion
            for reader in self.readers
            if isinstance(reader, GenerateReader)
            for completion in reader.completions
        ]


class RequestFactory:
    """Checks prompts and tasks against one checkpoint and makes requests of them."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: GemmaTokenizer | None,
        max_model_len: int,
        seeds: random.Random,
        constraints: Constraints,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._seeds = seeds
        self._constraints = constraints
        self._scores = Scores(config.labels, config.problem_type)

    @property
    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer; TaskError if the checkpoint has none."""
        if self._tokenizer is None:
            raise TaskError(
                "the checkpoint has no tokenizer files (tokenizer.json or tokenizer.model): pass "
                "token ids, or add the files"
            )
        return self._tokenizer

    def encode(self, prompt: Prompt) -> list[int]:
        """Turn a text, a list of messages or a list of token ids into token ids.

        Raises:
            PromptError: it is empty or malformed, or an id is outside the vocabulary.
            TaskError: it is text, and there is no tokenizer.
        """
        assert not isinstance(prompt, WindowedPrompt), "see WindowedEngine"
        if isinstance(prompt, str):
            return self.tokenizer.encode_text(prompt)
        if not prompt:
            raise PromptError("the prompt is empty")
        if isinstance(prompt[0], Mapping):
            return self.tokenizer.encode_messages(prompt)
        tokens: list[int] = []
        for position, token in enumerate(prompt):
            if not isinstance(token, int) or not 0 <= token < self._config.vocab_size:
                raise PromptError(
                    f"prompt[{position}] is {token!r}: token ids are integers in "
                    f"[0, {self._config.vocab_size})"
                )
            tokens.append(token)
        return tokens

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise TaskError if the checkpoint can't do a task, ParameterError if tasks clash."""
        if not tasks:
            raise ParameterError("a request needs at least one task")
        kinds = [type(task) for task in tasks]
        for kind in kinds:
            needed = _NEEDS.get(kind)
            if needed is not None and needed != self._config.architecture:
                raise TaskError(
                    f"{kind.__name__} needs a {needed} checkpoint; this one is a "
                    f"{self._config.architecture} checkpoint"
                )
            if kinds.count(kind) > 1:
                raise ParameterError(f"a request can hold one {kind.__name__} task, not more")

    def label_task(self, labels: Sequence[str], normalize: Normalize) -> ScoreLabels:
        """Return the task that scores these labels, tokenized as continuations of a prompt.

        Raises:
            ParameterError: no labels, an empty one, or one twice.
        """
        if not labels or len(set(labels)) != len(labels) or not all(labels):
            raise ParameterError(f"labels must be distinct and not empty, got {list(labels)!r}")
        ids = tuple(tuple(self.tokenizer.encode_continuation(label)) for label in labels)
        return ScoreLabels(tuple(labels), ids, normalize)

    def make(
        self,
        request_id: str,
        prompt: list[int],
        tasks: Sequence[Task],
        *,
        stream: bool,
        salt: bytes = b"",
        adapter: int = BASE,
    ) -> Request:
        """Return a request that is ready to be queued.

        Raises:
            PromptError: the prompt is too long.
            TaskError, ParameterError: as `check`.
        """
        self.check(tasks)
        room = self._max_model_len - len(prompt)
        if room < 0 or (room == 0 and any(isinstance(task, Generate) for task in tasks)):
            raise PromptError(
                f"the prompt has {len(prompt)} tokens, and {self._max_model_len} is the limit for "
                "prompt and answer: shorten it"
            )
        readers = [self._reader(prompt, task, room) for task in tasks]
        return Request(request_id, prompt, readers, stream, _salted(salt, readers), adapter)

    def _reader(self, prompt: list[int], task: Task, room: int) -> TaskReader:
        match task:
            case Generate():
                return self._generate(prompt, task, room)
            case ScoreLabels():
                return self._score_labels(prompt, task, room)
            case Classify():
                return ClassifyReader(prompt, self._config.pad_token_id, task, self._scores)
            case TagTokens():
                return self._tag(prompt, task)
            case Embed():
                return self._embed(prompt, task)
            case PromptLogprobs():
                return LogprobsReader(prompt, task.top)

    def _generate(self, prompt: list[int], task: Generate, room: int) -> GenerateReader:
        params = task.params
        if params.stop and self._tokenizer is None:
            raise TaskError("stop strings need a tokenizer, and the checkpoint has none")
        check_token_ids(params, self._config.vocab_size)
        seed = params.seed if params.seed is not None else self._seeds.getrandbits(63)
        guides: Sequence[Guide | None] = [None] * params.n
        if params.constraint is not None:
            guides = self._constraints.guides(params, params.n)
        return GenerateReader(
            len(prompt),
            [
                CompletionReader(
                    params,
                    seed=child_seed(seed, index),
                    prompt=prompt,
                    limit=min(params.max_tokens, room),
                    eos_ids=self._config.eos_token_ids,
                    tokenizer=self._tokenizer,
                    guide=guide,
                )
                for index, guide in enumerate(guides)
            ],
        )

    def _score_labels(self, prompt: list[int], task: ScoreLabels, room: int) -> ScoreLabelsReader:
        longest = max(len(label) for label in task.label_ids)
        if longest - 1 > room:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens and a label {longest}; together they pass "
                f"the limit of {self._max_model_len}: shorten the prompt"
            )
        return ScoreLabelsReader(len(prompt), task)

    def _embed(self, prompt: list[int], task: Embed) -> TaskReader:
        layer = inner_layer(task.layer, self._config.num_hidden_layers)
        kind = HiddenStatesReader if task.pooling == "none" else EmbedReader
        return kind(len(prompt), task, layer)

    def _tag(self, prompt: list[int], task: TagTokens) -> TagReader:
        if len(task.offsets) != len(prompt):
            raise ParameterError(
                f"TagTokens has {len(task.offsets)} offsets for {len(prompt)} prompt tokens"
            )
        return TagReader(len(prompt), task, self._scores)


def _salted(salt: bytes, readers: Sequence[TaskReader]) -> bytes:
    """Keep prompts apart of which not all layers are computed: their pages lack keys."""
    layers = deepest(reader.layers for reader in readers)
    return salt if layers is None else b"%s/%d layers" % (salt, layers)
