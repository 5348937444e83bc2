"""POST /v1/embeddings."""

import base64
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request

from actors.calls import Call, PromptAnswer
from cluster.serve.protocol.base import PromptUsage
from cluster.serve.protocol.embeddings import Embedding, EmbeddingList, EmbeddingRequest
from cluster.serve.server import ServerOf
from cluster.serve.terms import Terms
from model.outputs import EmbeddingOutput
from model.tasks import Embed

from .common import ERRORS
from .inputs import prompts_of

router = APIRouter()


@router.post("/v1/embeddings", responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request, server: ServerOf) -> EmbeddingList:
    """Turn inputs into vectors."""
    ticket = server.ticket(request, body.model, body.timeout)
    return embedding_list(body, await ticket.compute(embedding_call(body, ticket.terms)))


def embedding_call(body: EmbeddingRequest, terms: Terms) -> Call:
    """Give the call that a request makes. Raises ApiError."""
    task = Embed(body.pooling or "last", body.normalize is not False)
    return terms.call(prompts_of(body.input), [task])


def embedding_list(body: EmbeddingRequest, answers: Sequence[PromptAnswer]) -> EmbeddingList:
    """Put the answers to that call into a response."""
    as_text = body.encoding_format == "base64"
    return EmbeddingList(
        data=[
            Embedding(index=index, embedding=_vector(answer, as_text=as_text))
            for index, answer in enumerate(answers)
        ],
        model=body.model,
        usage=PromptUsage.of(sum(answer.prompt_tokens for answer in answers)),
    )


def _vector(answer: PromptAnswer, *, as_text: bool) -> list[float] | str:
    (output,) = answer.results
    assert isinstance(output, EmbeddingOutput)
    if not as_text:
        return list(output.embedding)
    return base64.b64encode(np.array(output.embedding, dtype="<f4").tobytes()).decode()
