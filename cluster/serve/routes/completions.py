"""POST /v1/completions."""

from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from actors.calls import Added, Ask, Begun, Call, Ended, Event, PromptAnswer
from cluster.serve.errors import bad_request
from cluster.serve.logprobs import CompletionTokens, joined
from cluster.serve.protocol.base import Usage, new_id, now
from cluster.serve.protocol.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from cluster.serve.server import ServerOf, Ticket
from cluster.serve.sse import EventStream
from cluster.serve.terms import Terms
from model.errors import GemmarayError
from model.outputs import Completion as Generated
from model.outputs import GenerationOutput, LogprobsOutput
from model.tasks import Generate, PromptLogprobs

from .common import streams
from .inputs import prompts_of
from .tally import Tally, finish_reason

router = APIRouter()


@router.post("/v1/completions", response_model=Completion, responses=streams())
async def completions(
    body: CompletionRequest, request: Request, server: ServerOf
) -> Completion | Response:
    """Continue prompts."""
    ticket = server.ticket(request, body.model, body.timeout)
    call = completion_call(body, ticket.terms)
    if body.stream:
        return EventStream(await ticket.stream(call), _Chunks(body, ticket))
    answers = await ticket.compute(call)
    ticket.count_completions(sum(map(_generated, answers)))
    return text_completion(body, answers)


def text_completion(body: CompletionRequest, answers: Sequence[PromptAnswer]) -> Completion:
    """Put the answers to a request's call into a response."""
    choices = [choice for answer in answers for choice in _choices(body, answer)]
    generated = sum(map(_generated, answers))
    return Completion(
        id=new_id("cmpl"),
        created=now(),
        model=body.model,
        choices=[choice.model_copy(update={"index": n}) for n, choice in enumerate(choices)],
        usage=Usage.of(sum(answer.prompt_tokens for answer in answers), generated),
    )


def completion_call(body: CompletionRequest, terms: Terms) -> Call:
    """Give the call that a request makes. Raises ApiError."""
    if body.stream and body.echo and (body.logprobs is not None or not body.limit):
        raise bad_request(
            "a prompt's own tokens are known at the end only, so echo with logprobs, or with "
            "max_tokens: 0, can't be streamed",
            param="stream",
        )
    prompts = prompts_of(body.prompt, add_bos=body.add_special_tokens is not False)
    return terms.call(prompts, _asks(body), choices=body.choices, with_text=bool(body.echo))


def _asks(body: CompletionRequest) -> list[Ask]:
    asks: list[Ask] = []
    if body.echo and (body.logprobs is not None or not body.limit):
        asks.append(PromptLogprobs(body.logprobs or 0))
    if body.limit:
        try:
            asks.append(Generate(body.sampling(body.limit, body.logprobs)))
        except GemmarayError as error:
            raise bad_request(str(error).removeprefix("SamplingParams: ")) from None
    if not asks:
        raise bad_request("0 is only possible with echo: true", param="max_tokens")
    return asks


def _generated(answer: PromptAnswer) -> int:
    outputs = [result for result in answer.results if isinstance(result, GenerationOutput)]
    return sum(len(done.token_ids) for output in outputs for done in output.completions)


def _choices(body: CompletionRequest, answer: PromptAnswer) -> Iterator[CompletionChoice]:
    """Give the choices of one prompt; all indices are 0 as yet."""
    scored = next((r for r in answer.results if isinstance(r, LogprobsOutput)), None)
    output = next((r for r in answer.results if isinstance(r, GenerationOutput)), None)
    done = output.completions if output else (None,) * body.choices
    for completion in done:
        yield CompletionChoice(
            index=0,
            text=(answer.text or "") + (completion.text if completion else ""),
            logprobs=_logprobs(body, answer, scored, completion),
            finish_reason=finish_reason(completion.finish_reason) if completion else "length",
        )


def _logprobs(
    body: CompletionRequest,
    answer: PromptAnswer,
    scored: LogprobsOutput | None,
    completion: Generated | None,
) -> CompletionLogprobs | None:
    if body.logprobs is None:
        return None
    told = CompletionTokens(body.logprobs)
    parts = [told.prompt(scored, answer.pieces)] if scored else []
    if completion:
        parts.append(told.answer(completion.logprobs or (), answer.pieces))
    return joined(parts)


class _Chunks:
    """The chunks of one stream."""

    def __init__(self, body: CompletionRequest, ticket: Ticket) -> None:
        self._body = body
        self._id, self._created = new_id("cmpl"), now()
        self._tally = Tally(ticket)
        self._told: dict[int, CompletionTokens] = {}

    def of(self, event: Event) -> Iterator[Completion]:
        """Give the chunks that an event makes; the prompts first, if they are echoed."""
        if isinstance(event, Ended):
            self._tally.ended(event)
        elif isinstance(event, Begun):
            for prompt, text in enumerate(event.texts or ()):
                for index in range(self._body.choices):
                    yield self._chunk(prompt * self._body.choices + index, text)
        elif isinstance(event, Added):
            self._tally.added(event)
            delta = event.delta
            if delta.text or delta.logprobs or delta.finish_reason:
                yield self._added(event)

    def last(self) -> Iterator[Completion]:
        """Give the count of tokens, if it was asked for."""
        if self._body.include_usage:
            yield self._of([], self._tally.usage)

    def _added(self, event: Added) -> Completion:
        delta = event.delta
        index = event.prompt * self._body.choices + delta.index
        logprobs = None
        if delta.logprobs is not None:
            told = self._told.setdefault(index, CompletionTokens(self._body.logprobs or 0))
            logprobs = told.answer(delta.logprobs, event.pieces)
        chunk = self._chunk(index, delta.text)
        reason = finish_reason(delta.finish_reason) if delta.finish_reason else None
        chunk.choices[0].logprobs, chunk.choices[0].finish_reason = logprobs, reason
        return chunk

    def _chunk(self, index: int, text: str) -> Completion:
        choice = CompletionChoice(index=index, text=text, logprobs=None, finish_reason=None)
        return self._of([choice], None)

    def _of(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=choices,
            usage=usage,
        )
