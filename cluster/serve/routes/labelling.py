"""POST /v1/classify, /v1/score_labels and /v1/tag_tokens."""

from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request

from actors.calls import AskLabels, AskTags, Prompt, PromptAnswer
from cluster.serve.errors import bad_request
from cluster.serve.logprobs import finite
from cluster.serve.protocol.base import PromptUsage
from cluster.serve.protocol.labelling import (
    Classification,
    ClassificationList,
    ClassifyRequest,
    Entity,
    LabelScore,
    ScoreLabelsRequest,
    Tagging,
    TaggingList,
    TagRequest,
    Token,
)
from cluster.serve.server import ServerOf
from model.errors import GemmarayError
from model.outputs import ClassificationOutput, TaggingOutput
from model.outputs import Entity as Found
from model.tasks import Classify
from pipelines.task_settings import LabelSettings

from .common import ERRORS
from .inputs import chat_prompt, prompts_of
from .long_texts import long_texts_of, what_became

router = APIRouter()


@router.post("/v1/classify", responses=ERRORS)
async def classify(body: ClassifyRequest, request: Request, server: ServerOf) -> ClassificationList:
    """Score inputs with the classification head."""
    ticket = server.ticket(request, body.model, body.timeout)
    task, long_texts = Classify(body.function_to_apply or "default"), long_texts_of(body)
    call = ticket.terms.call(_prompts(body), [task], long_texts=long_texts)
    return _classifications(body, await ticket.compute(call))


@router.post("/v1/score_labels", responses=ERRORS)
async def score_labels(
    body: ScoreLabelsRequest, request: Request, server: ServerOf
) -> ClassificationList:
    """Give labels a probability as the answer."""
    ticket = server.ticket(request, body.model, body.timeout)
    try:
        # The same rules as for a job's labels.
        labels = LabelSettings(labels=tuple(body.labels), normalize=body.normalize or "sum")
    except GemmarayError as error:
        message = str(error).removeprefix("LabelSettings: ")
        raise bad_request(message, param="labels") from None
    ask = AskLabels(labels.labels, labels.normalize)
    answers = await ticket.compute(ticket.terms.call(_prompts(body), [ask]))
    return _classifications(body, answers)


@router.post("/v1/tag_tokens", responses=ERRORS)
async def tag_tokens(body: TagRequest, request: Request, server: ServerOf) -> TaggingList:
    """Find spans with the token classification head."""
    ticket = server.ticket(request, body.model, body.timeout)
    ignored = ("O",) if body.ignore_labels is None else tuple(body.ignore_labels)
    ask = AskTags(body.aggregation_strategy or "simple", ignored)
    call = ticket.terms.call(prompts_of(body.input), [ask], long_texts=long_texts_of(body))
    answers = await ticket.compute(call)
    return TaggingList(
        data=[_tagging(index, body, answer) for index, answer in enumerate(answers)],
        model=body.model,
        usage=_usage(answers),
    )


def _prompts(body: ClassifyRequest | ScoreLabelsRequest) -> list[Prompt]:
    if body.messages is not None:
        continues = body.messages[-1].role == "assistant"
        return [chat_prompt(body.messages, continue_final=continues)]
    assert body.input is not None
    return prompts_of(body.input)


def _classifications(
    body: ClassifyRequest | ScoreLabelsRequest, answers: Sequence[PromptAnswer]
) -> ClassificationList:
    return ClassificationList(
        data=[_classification(index, body, answer) for index, answer in enumerate(answers)],
        model=body.model,
        usage=_usage(answers),
    )


def _classification(
    index: int, body: ClassifyRequest | ScoreLabelsRequest, answer: PromptAnswer
) -> Classification:
    (output,) = answer.results
    assert isinstance(output, ClassificationOutput)
    best, became = output.scores, {}
    if isinstance(body, ClassifyRequest):
        best, became = output.best(body.top_k), what_became(body, answer)
    return Classification(
        index=index,
        label=output.label,
        score=finite(output.score),
        scores=[LabelScore(label=item.label, score=finite(item.score)) for item in best],
        logits=[finite(logit) for logit in output.logits],
        **became,
    )


def _tagging(index: int, body: TagRequest, answer: PromptAnswer) -> Tagging:
    (output,) = answer.results
    assert isinstance(output, TaggingOutput)
    return Tagging(
        index=index,
        entities=_entities(output.entities),
        token_labels=list(output.token_labels),
        token_scores=list(output.token_scores),
        **what_became(body, answer),
    )


def _entities(entities: Sequence[Found]) -> list[Entity] | list[Token]:
    if all(e.index is None for e in entities):
        return [
            Entity(label=e.label, start=e.start, end=e.end, text=e.text, score=e.score)
            for e in entities
        ]
    return [Token(**asdict(e)) for e in entities]


def _usage(answers: Sequence[PromptAnswer]) -> PromptUsage:
    return PromptUsage.of(sum(answer.prompt_tokens for answer in answers))
