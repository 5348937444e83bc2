"""POST /tokenize and /detokenize."""

from fastapi import APIRouter, Request

from actors.calls import Prompt, TextPrompt
from cluster.serve.logprobs import token_text
from cluster.serve.protocol.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from cluster.serve.server import ServerOf

from .common import ERRORS
from .inputs import chat_prompt

router = APIRouter()


@router.post("/tokenize", responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request, server: ServerOf) -> TokenizeReply:
    """Give the tokens that the model sees."""
    ticket = server.ticket(request, body.model)
    tokens = await ticket.result(ticket.backend.tokenize(_prompt(body)))
    texts = [token_text(piece) for piece in tokens.pieces] if body.return_token_strs else None
    return TokenizeReply(
        count=len(tokens.ids),
        max_model_len=tokens.max_model_len,
        tokens=list(tokens.ids),
        token_strs=texts,
    )


@router.post("/detokenize", responses=ERRORS)
async def detokenize(
    body: DetokenizeRequest, request: Request, server: ServerOf
) -> DetokenizeReply:
    """Give the text of tokens."""
    ticket = server.ticket(request, body.model)
    return DetokenizeReply(prompt=await ticket.result(ticket.backend.detokenize(body.tokens)))


def _prompt(body: TokenizeRequest) -> Prompt:
    if body.messages is not None:
        return chat_prompt(body.messages, continue_final=bool(body.continue_final_message))
    assert body.prompt is not None
    return TextPrompt(body.prompt, body.add_special_tokens is not False)
