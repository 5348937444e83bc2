"""POST /v1/embeddings."""

import base64

import numpy as np
from fastapi import APIRouter, Request

from actors.calls import PromptAnswer
from cluster.serve.protocol.base import PromptUsage
from cluster.serve.protocol.embeddings import Embedding, EmbeddingList, EmbeddingRequest
from cluster.serve.server import ServerOf
from model.outputs import EmbeddingOutput
from model.tasks import Embed

from .common import ERRORS
from .inputs import prompts_of

router = APIRouter()


@router.post("/v1/embeddings", responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request, server: ServerOf) -> EmbeddingList:
    """Turn inputs into vectors."""
    ticket = server.ticket(request, body.model, body.timeout)
    task = Embed(body.pooling or "last", body.normalize is not False)
    answers = await ticket.compute(ticket.call(prompts_of(body.input), [task]))
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
