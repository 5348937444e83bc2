"""An endpoint that speaks OpenAI's API, ours or another."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from .answering import AnswerError, Ending, Message, TooLongError

# What extends the API goes by the names of others; the rest by those of SamplingParams.
EXTENSIONS = {"json_schema": "guided_json", "regex": "guided_regex", "choice": "guided_choice"}
TOO_LONG = "context_length_exceeded"


class RemoteModel:
    """A model behind a URL.

    Args:
        url: of the API, as in http://host:8000/v1.
        name: of the model in requests.
        key: to be let in with.
    """

    def __init__(self, url: str, name: str, key: str | None) -> None:
        self.name = name
        self._url = url
        self._client = _client(url, key)

    async def answer(
        self, messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> AsyncGenerator[str | Ending, None]:
        """Answer the last message; see Answerer."""
        reason: str | None = None
        try:
            stream: AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
                model=self.name,
                messages=cast("Any", messages),
                stream=True,
                extra_body=request_fields(settings),
            )
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices:
                        reason = choice.finish_reason or reason
                        if choice.delta.content:
                            yield choice.delta.content
        except APIError as error:
            raise _told(error, self._url) from None
        if reason is None:
            raise AnswerError(f"{self._url} broke the answer off")
        yield Ending(cut=reason == "length")

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


async def find_model(url: str, key: str | None) -> str:
    """Give the name of the only model that an endpoint has.

    Raises:
        AnswerError: it can't be asked, or has another number of models.
    """
    async with _client(url, key) as client:
        try:
            names = [model.id async for model in client.models.list()]
        except APIError as error:
            raise _told(error, url) from None
    if len(names) != 1:
        known = ", ".join(sorted(names)) or "none"
        raise AnswerError(f"say which model of {url} it is to be with --model; it has: {known}")
    return names[0]


def request_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write settings of SamplingParams as fields of a request.

    The temperature is always among them, since 1 is the API's default and ours is 0.
    """
    fields: dict[str, Any] = {"temperature": 0.0}
    for name, value in settings.items():
        if name == "json_object":
            fields["response_format"] = {"type": "json_object"}
        else:
            fields[EXTENSIONS.get(name, name)] = value
    return fields


def _client(url: str, key: str | None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0)


def _told(error: APIError, url: str) -> AnswerError:
    """Say in one line what went wrong."""
    if isinstance(error, APIConnectionError):
        cause = str(error.__cause__ or error).partition("\n")[0]
        return AnswerError(f"{url} can't be reached or broke off: {cause}")
    body = error.body
    message = str(body.get("message") or body) if isinstance(body, dict) else error.message
    message = message.partition("\n")[0]
    if error.code == TOO_LONG:
        return TooLongError(message)
    if not isinstance(error, APIStatusError):
        return AnswerError(f"{url}: {message}")
    hint = {
        401: "; give a key with --api-key-file or in GEMMARAY_API_KEY",
        404: "; a URL ends with /v1, as in http://host:8000/v1",
    }.get(error.status_code, "")
    return AnswerError(f"{url} answers {error.status_code}: {message}{hint}")
