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
from model.outputs import EmbeddingOutput, HiddenStatesOutput
from model.tasks import Embed

from .common import ERRORS
from .inputs import prompts_of
from .long_texts import long_texts_of, what_became

router = APIRouter()


@router.post("/v1/embeddings", responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request, server: ServerOf) -> EmbeddingList:
    """Turn inputs into vectors."""
    ticket = server.ticket(request, body.model, body.timeout)
    return embedding_list(body, await ticket.compute(embedding_call(body, ticket.terms)))


def embedding_call(body: EmbeddingRequest, terms: Terms) -> Call:
    """Give the call that a request makes. Raises ApiError."""
    pooling = body.pooling or "last"
    normalize = pooling != "none" if body.normalize is None else body.normalize
    task = Embed(pooling, normalize, -1 if body.layer is None else body.layer)
    return terms.call(prompts_of(body.input), [task], long_texts=long_texts_of(body))


def embedding_list(body: EmbeddingRequest, answers: Sequence[PromptAnswer]) -> EmbeddingList:
    """Put the answers to that call into a response."""
    as_text = body.encoding_format == "base64"
    return EmbeddingList(
        data=[
            Embedding(
                index=index,
                embedding=_vector(answer, as_text=as_text),
                **what_became(body, answer),
            )
            for index, answer in enumerate(answers)
        ],
        model=body.model,
        usage=PromptUsage.of(sum(answer.prompt_tokens for answer in answers)),
    )


def _vector(answer: PromptAnswer, *, as_text: bool) -> list[float] | list[list[float]] | str:
    (output,) = answer.results
    if isinstance(output, HiddenStatesOutput):
        values = output.hidden_states
    else:
        assert isinstance(output, EmbeddingOutput)
        if not as_text:
            return list(output.embedding)
        values = np.array(output.embedding)
    if not as_text:
        rows: list[list[float]] = values.tolist()
        return rows
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
