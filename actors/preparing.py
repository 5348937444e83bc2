"""From what a caller writes to what the engine takes, and what tokens stand for on the way back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.chat import SystemPolicy
from model.errors import PromptError, TaskError
from model.labels import encode_labels
from model.long_texts import Fitted, Frame, LongTexts, fit
from model.outputs import GenerationOutput, LogprobsOutput, TaskOutput, TokenLogprob
from model.tasks import TagTokens as TagTask
from model.tasks import Task
from model.tokenizer import GemmaTokenizer

from .calls import Ask, AskLabels, AskTags, Call, ChatPrompt, Piece, Prompt, TextPrompt


@dataclass(frozen=True, slots=True)
class Prepared:
    """One prompt, ready for the engine.

    Attributes:
        fitted: its tokens.
        tasks: what is asked of it.
        text: its text, if the caller wants it back.
    """

    fitted: Fitted
    tasks: tuple[Task, ...]
    text: str | None


class Preparer:
    """Encodes prompts and labels for one checkpoint. Threads may share one.

    Args:
        tokenizer: of the checkpoint, if it has one.
        system: what becomes of a first system message.
        max_len: most tokens of a prompt.
        bos_id: of `<bos>`, where lists of tokens may begin with it.
    """

    def __init__(
        self,
        tokenizer: GemmaTokenizer | None,
        system: SystemPolicy,
        max_len: int,
        bos_id: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._max_len = max_len
        self._bos_id = bos_id

    @property
    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer; TaskError if the checkpoint has none."""
        if self._tokenizer is None:
            raise TaskError("this model has no tokenizer: it takes token ids, and no text")
        return self._tokenizer

    def prepare(self, call: Call) -> list[Prepared]:
        """Encode the prompts of a call.

        Raises:
            PromptError: a prompt is malformed, or there are too many windows.
            ParameterError: labels can't be told apart, or the stride leaves no room for a text.
            TaskError: it takes a tokenizer, and there is none; or tags are asked for, not of text.
        """
        call.long_texts.check(self._max_len)
        prepared, windows = [], 0
        for prompt in call.prompts:
            prepared.append(self._prepare(prompt, call))
            windows += prepared[-1].fitted.windows
            if call.max_windows is not None and windows > call.max_windows:
                raise PromptError(
                    f"the inputs make more than {call.max_windows} windows, which is the limit: "
                    "send fewer, or lower the stride"
                )
        return prepared

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Give the tokens of a prompt. Raises as `prepare`."""
        if isinstance(prompt, TextPrompt):
            return self.tokenizer.encode_text(prompt.text, add_bos=prompt.add_bos)
        if isinstance(prompt, ChatPrompt):
            return self.tokenizer.encode_messages(
                prompt.messages, system=self._system, continue_final=prompt.continue_final
            )
        return prompt.ids

    def pieces(self, ids: Iterable[int]) -> dict[int, Piece]:
        """Say what each token stands for; nothing where there is no tokenizer."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return {n: Piece(b"", in_text=False) for n in ids}
        return {n: Piece(tokenizer.piece(n), n not in tokenizer.control_ids) for n in ids}

    def pieces_of(self, results: Iterable[TaskOutput]) -> dict[int, Piece]:
        """Give every token that the results give a log-probability of."""
        return self.pieces({n for result in results for n in _scored(result)})

    def pieces_in(self, logprobs: Iterable[TokenLogprob]) -> dict[int, Piece]:
        """Give every token in a list of log-probabilities."""
        return self.pieces(set(_named(logprobs)))

    def _prepare(self, prompt: Prompt, call: Call) -> Prepared:
        tags = next((ask for ask in call.asks if isinstance(ask, AskTags)), None)
        if tags is not None:
            return self._tags(tags, prompt, call.long_texts)
        tasks = tuple(self._task(ask, prompt) for ask in call.asks)
        ids = self.encode(prompt)
        fitted = self._fitted(prompt, ids, call.long_texts)
        return Prepared(fitted, tasks, self._text(prompt, ids) if call.with_text else None)

    def _tags(self, ask: AskTags, prompt: Prompt, long_texts: LongTexts) -> Prepared:
        if not isinstance(prompt, TextPrompt):
            raise TaskError("tags are spans of a text, so the input must be text")
        ids, offsets = self.tokenizer.encode_with_offsets(prompt.text)
        fitted = fit(ids, self._max_len, long_texts, Frame())
        places = tuple(offsets[: fitted.kept])
        task = TagTask(prompt.text, places, ask.aggregation, ask.ignore_labels)
        return Prepared(fitted, (task,), prompt.text)

    def _fitted(self, prompt: Prompt, ids: Sequence[int], long_texts: LongTexts) -> Fitted:
        if long_texts.mode == "error":
            return Fitted(ids, len(ids))
        if isinstance(prompt, ChatPrompt):
            frame = Frame.of_chat(ids, self.tokenizer)
        else:
            frame = Frame.of_tokens(ids, self._bos_id)
        return fit(ids, self._max_len, long_texts, frame)

    def _task(self, ask: Ask, prompt: Prompt) -> Task:
        if isinstance(ask, AskLabels):
            chat = isinstance(prompt, ChatPrompt)
            labels = encode_labels(ask.labels, ask.normalize, self.tokenizer, chat=chat)
            return labels.task(spaced=_spaced(prompt))
        assert not isinstance(ask, AskTags)
        return ask

    def _text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        return prompt.text if isinstance(prompt, TextPrompt) else self.tokenizer.decode(ids)


def _spaced(prompt: Prompt) -> bool:
    """Whether a space goes between a prompt and a label; see model.labels."""
    if isinstance(prompt, ChatPrompt):
        return prompt.continue_final
    return not (isinstance(prompt, TextPrompt) and prompt.text[-1:].isspace())


def _scored(result: TaskOutput) -> Iterable[int]:
    if isinstance(result, GenerationOutput):
        for completion in result.completions:
            yield from _named(completion.logprobs or ())
    elif isinstance(result, LogprobsOutput):
        yield from result.token_ids
        for top in result.tops or ():
            yield from (token_id for token_id, _ in top)


def _named(logprobs: Iterable[TokenLogprob]) -> Iterable[int]:
    for token in logprobs:
        yield token.token_id
        yield from (token_id for token_id, _ in token.top)
