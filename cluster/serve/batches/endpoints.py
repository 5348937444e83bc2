"""What a line of a batch may ask for: the same requests as online, answered by the same code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from actors.calls import Call, PromptAnswer
from cluster.serve.errors import bad_request, from_findings
from cluster.serve.protocol.base import Request
from cluster.serve.protocol.chat import ChatCompletion, ChatRequest
from cluster.serve.protocol.completions import Completion, CompletionRequest
from cluster.serve.protocol.embeddings import EmbeddingList, EmbeddingRequest
from cluster.serve.protocol.sampling import SamplingRequest
from cluster.serve.routes.chat import chat_call, chat_completion
from cluster.serve.routes.completions import completion_call, text_completion
from cluster.serve.routes.embeddings import embedding_call, embedding_list
from cluster.serve.terms import Terms

BatchReply = ChatCompletion | Completion | EmbeddingList


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """One kind of request.

    Attributes:
        request: its fields.
        call: what it asks of its model; raises ApiError.
        reply: the response, from what the model said.
    """

    request: type[Request]
    call: Callable[[Any, Terms], Call]
    reply: Callable[[Any, Sequence[PromptAnswer]], BatchReply]

    def read(self, body: Mapping[str, Any], seed: int) -> Request:
        """Read the body of a line.

        Args:
            body: as it is in the file.
            seed: of its draws, where it names none, so that another try gives the same answer.

        Raises:
            ApiError: what the same request would be told online.
        """
        try:
            request = self.request.model_validate(body)
        except ValidationError as error:
            found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
            raise from_findings(found) from None
        if isinstance(request, SamplingRequest):
            if request.stream:
                raise bad_request("a batch has no streams", param="stream")
            if request.seed is None:
                return request.model_copy(update={"seed": seed})
        return request


ENDPOINTS: Mapping[str, BatchEndpoint] = {
    "/v1/chat/completions": BatchEndpoint(ChatRequest, chat_call, chat_completion),
    "/v1/completions": BatchEndpoint(CompletionRequest, completion_call, text_completion),
    "/v1/embeddings": BatchEndpoint(EmbeddingRequest, embedding_call, embedding_list),
}
