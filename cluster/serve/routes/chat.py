"""POST /v1/chat/completions."""

from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from actors.calls import Added, Call, Ended, Event, PromptAnswer
from cluster.serve.errors import bad_request
from cluster.serve.logprobs import chat_logprobs
from cluster.serve.protocol.base import Usage, new_id, now
from cluster.serve.protocol.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
)
from cluster.serve.server import ServerOf, Ticket
from cluster.serve.sse import EventStream
from cluster.serve.terms import Terms
from model.errors import GemmarayError
from model.outputs import GenerationOutput
from model.tasks import Generate

from .common import streams
from .inputs import chat_prompt
from .tally import Tally, finish_reason

router = APIRouter()

# More than any model's length: the engine stops where that ends.
UNLIMITED = 1 << 20


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=streams())
async def chat_completions(
    body: ChatRequest, request: Request, server: ServerOf
) -> ChatCompletion | Response:
    """Answer a conversation."""
    ticket = server.ticket(request, body.model, body.timeout)
    call = chat_call(body, ticket.terms)
    if body.stream:
        return EventStream(await ticket.stream(call), _Chunks(body, ticket))
    completion = chat_completion(body, await ticket.compute(call))
    ticket.count_completions(completion.usage.completion_tokens)
    return completion


def chat_call(body: ChatRequest, terms: Terms) -> Call:
    """Give the call that a request makes. Raises ApiError."""
    try:
        params = body.sampling(body.limit or UNLIMITED, body.wanted_logprobs)
    except GemmarayError as error:
        raise bad_request(str(error).removeprefix("SamplingParams: ")) from None
    prompt = chat_prompt(body.messages, continue_final=bool(body.continue_final_message))
    return terms.call([prompt], [Generate(params)], choices=body.choices)


def chat_completion(body: ChatRequest, answers: Sequence[PromptAnswer]) -> ChatCompletion:
    """Put the answers to that call into a response."""
    (answer,) = answers
    (output,) = answer.results
    assert isinstance(output, GenerationOutput)
    generated = sum(len(completion.token_ids) for completion in output.completions)
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=now(),
        model=body.model,
        choices=[
            ChatChoice(
                index=index,
                message=AnswerMessage(content=completion.text),
                logprobs=chat_logprobs(completion.logprobs, answer.pieces),
                finish_reason=finish_reason(completion.finish_reason),
            )
            for index, completion in enumerate(output.completions)
        ],
        usage=Usage.of(answer.prompt_tokens, generated),
    )


class _Chunks:
    """The chunks of one stream."""

    def __init__(self, body: ChatRequest, ticket: Ticket) -> None:
        self._body = body
        self._id, self._created = new_id("chatcmpl"), now()
        self._tally = Tally(ticket)
        self._spoke: set[int] = set()

    def of(self, event: Event) -> Iterator[ChatChunk]:
        """Give the chunks that an event makes: the role first, how it ended last."""
        if isinstance(event, Ended):
            self._tally.ended(event)
        if not isinstance(event, Added):
            return
        self._tally.added(event)
        delta = event.delta
        if delta.index not in self._spoke:
            self._spoke.add(delta.index)
            yield self._chunk(delta.index, Delta(role="assistant", content=""))
        logprobs = chat_logprobs(delta.logprobs, event.pieces)
        if delta.text or logprobs:
            yield self._chunk(delta.index, Delta(content=delta.text), logprobs=logprobs)
        if delta.finish_reason:
            reason = finish_reason(delta.finish_reason)
            yield self._chunk(delta.index, Delta(), finish_reason=reason)

    def last(self) -> Iterator[ChatChunk]:
        """Give the count of tokens, if it was asked for."""
        if self._body.include_usage:
            yield self._of([], self._tally.usage)

    def _chunk(self, index: int, delta: Delta, **changes: object) -> ChatChunk:
        choice = ChunkChoice.model_validate({"index": index, "delta": delta, **changes})
        return self._of([choice], None)

    def _of(self, choices: list[ChunkChoice], usage: Usage | None) -> ChatChunk:
        return ChatChunk(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=choices,
            usage=usage,
        )
