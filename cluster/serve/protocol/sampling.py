"""The fields by which a request says how its tokens are drawn."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from model.params import SamplingParams

from .base import MOST_TOKENS, Request, StreamOptions, TokenId
from .structured import Structured

StopText = Annotated[str, Field(min_length=1, max_length=4096)]
# pydantic's \d would take the digits of every script.
TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]

MaxTokens = Annotated[int, Field(le=MOST_TOKENS)]
DEFAULT_TEMPERATURE = 1.0


class SamplingRequest(Structured, Request):
    """What chats and completions share; what is null has OpenAI's default.

    `top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `stop_token_ids` and `ignore_eos` are not
    OpenAI's; they are named as elsewhere, and mean what SamplingParams says.
    """

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=64)] | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    top_k: int | None = Field(default=None, ge=0, le=1 << 31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    min_tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256)] | None = None
    ignore_eos: bool | None = None

    @field_validator("stream_options")
    @classmethod
    def _of_a_stream(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        # `stream` stands before this field, so it is known here, unless it is at fault itself.
        if value is not None and not info.data.get("stream"):
            raise ValueError("is only possible with stream: true")
        return value

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """Give the engine's settings.

        Raises:
            ParameterError: two of them contradict each other.
        """
        values: dict[str, Any] = {
            "temperature": DEFAULT_TEMPERATURE if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "n": self.n,
            "stop": self.stop,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "min_tokens": self.min_tokens,
            "stop_token_ids": self.stop_token_ids,
            "ignore_eos": self.ignore_eos,
            "logprobs": logprobs,
            **self.constraint,
        }
        if self.logit_bias is not None:
            values["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        given = {name: value for name, value in values.items() if value is not None}
        return SamplingParams(max_tokens=max_tokens, **given)
