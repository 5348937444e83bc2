"""Settings that users write: checked when they are made, frozen afterwards."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from .constraint import Constraint, ConstraintKind, check_choices, check_regex, schema_text
from .errors import ParameterError

DType = Literal["auto", "bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]
AttentionName = Literal["auto", "reference", "native", "flash", "triton", "flex"]
KernelsName = Literal["auto", "plain", "native", "triton"]
WeightFormat = Literal["int8", "int4", "fp8", "bnb-int8", "bnb-nf4"]
Quantization = Literal["none", WeightFormat]
SchedulePolicy = Literal["shard", "fcfs"]

TokenId = Annotated[int, Field(ge=0)]
AdapterName = Annotated[str, Field(min_length=1, max_length=256)]
AdapterPaths = dict[AdapterName, Annotated[str, Field(min_length=1)]]
Bias = Annotated[float, Field(ge=-100, le=100)]

FLOAT16_REFUSED = (
    "float16 is not supported: Gemma 2's activations overflow its range (65504) and answers turn "
    "erratic; use bfloat16 or float32"
)


def _refuse_float16(value: object) -> object:
    if str(value).removeprefix("torch.") in {"float16", "half", "fp16"}:
        raise ValueError(FLOAT16_REFUSED)
    return value


CheckedDType = Annotated[DType, BeforeValidator(_refuse_float16)]


def one_line(error: ValidationError) -> str:
    """Render pydantic's findings as `field: what is wrong, got value; ...` on one line."""
    findings = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if isinstance(item.get("ctx", {}).get("error"), ParameterError):
            message = message.partition(": ")[2]  # the name of a settings class within this one
        got = "" if item["type"] in {"missing", "value_error"} else f", got {item['input']!r}"
        findings.append(f"{where}: {message}{got}" if where else message)
    return "; ".join(findings)


def named_paths(text: str) -> dict[str, str]:
    """Read `name=path,name=path`.

    Raises:
        ParameterError: it is not of that form, or names one twice.
    """
    pairs = [item.partition("=") for item in text.split(",")]
    named = {name.strip(): path.strip() for name, _, path in pairs}
    if not all(named) or not all(named.values()) or len(named) != len(pairs):
        raise ParameterError(
            f"adapters are NAME=FOLDER,NAME=FOLDER with distinct names, got {text!r}"
        )
    return named


class Settings(BaseModel):
    """A frozen, strict model: unknown fields, NaN and silent conversions are refused.

    Raises ParameterError, on one line, where pydantic would raise its own ValidationError.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ParameterError(f"{type(self).__name__}: {one_line(error)}") from None


class SamplingParams(Settings):
    """How the tokens of one request are drawn, and where it ends.

    Attributes:
        max_tokens: at most this many tokens are generated.
        min_tokens: no end token and no stop string ends the request before this many.
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens that holds this probability.
        min_p: drop tokens whose probability is below min_p times the likeliest one's.
        repetition_penalty: divides positive and multiplies negative logits of tokens that occur in
            the prompt or the output (Keskar et al. 2019, arXiv:1909.05858).
        presence_penalty: subtracted once from the logit of each token in the output so far.
        frequency_penalty: subtracted once per occurrence in the output so far.
        seed: fixes the draws of this request whatever else is in the batch; None draws a new one.
        stop: strings that end the request; they are cut from the text.
        stop_token_ids: further tokens that end the request; they are kept out of the text.
        ignore_eos: go on past the end tokens of the generation config.
        n: independent answers to the same prompt; the prompt is computed once.
        logprobs: also report the log-probabilities of each token and of the top this many; these
            are the model's own, before penalties and temperature.
        logit_bias: token id to a number that is added to its logit.
        json_schema: the answer is JSON that this schema allows: a map, or the same as JSON text,
            which it is kept as. At most one of these four is set; see docs/structured-output.md.
        json_object: the answer is a JSON object.
        regex: the answer matches this regular expression from its beginning to its end.
        choice: the answer is one of these texts.
    """

    max_tokens: int = Field(default=128, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0.0, le=100.0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: tuple[str, ...] = Field(default=(), max_length=64)
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False
    n: int = Field(default=1, ge=1, le=128)
    logprobs: int | None = Field(default=None, ge=0, le=100)
    logit_bias: dict[TokenId, Bias] = Field(default_factory=dict)
    json_schema: str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None

    @field_validator("json_schema", mode="before")
    @classmethod
    def _schema(cls, value: Any) -> Any:
        return None if value is None else schema_text(value)

    @field_validator("regex")
    @classmethod
    def _regex(cls, value: str | None) -> str | None:
        return None if value is None else check_regex(value)

    @field_validator("choice")
    @classmethod
    def _choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            check_choices(value)
        return value

    @field_validator("stop", "stop_token_ids", "choice", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens ({self.min_tokens}) must be <= max_tokens ({self.max_tokens})"
            )
        if any(not text for text in self.stop):
            raise ValueError("stop must not hold an empty string")
        self._check_constraint()
        return self

    def _check_constraint(self) -> None:
        given = [name for name in get_args(ConstraintKind) if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}: an answer has one constraint")
        if given and self.ignore_eos:
            raise ValueError(f"ignore_eos contradicts {given[0]}: only an end token can follow it")

    @property
    def greedy(self) -> bool:
        """True when no random number is needed."""
        return self.temperature == 0.0

    @property
    def constraint(self) -> Constraint | None:
        """What the answer has to be, if anything is asked."""
        if self.json_schema is not None:
            return Constraint("json_schema", self.json_schema)
        if self.regex is not None:
            return Constraint("regex", self.regex)
        if self.choice is not None:
            return Constraint("choice", self.choice)
        return Constraint("json_object") if self.json_object else None


class EngineConfig(Settings):
    """What an engine is built from.

    Attributes:
        checkpoint: a local folder, a hub id (`google/gemma-2-2b-it`) or `s3://bucket/prefix`.
        revision: the branch, tag or commit of a hub id.
        dtype: of weights, activations and KV cache; "auto" is what config.json says.
        device: "auto" is CUDA where there is any.
        tensor_parallel: ranks that share every layer; the others are child processes.
        max_batch_tokens: tokens that one step computes at most, prefill and decode together; None
            is 512 on a CPU (what its caches like) and 8192 on CUDA.
        max_sequences: sequences that run at the same time at most.
        max_model_len: longest prompt plus answer in tokens; None is the config's limit.
        kv_cache_bytes: size of the KV cache of one rank; None takes a share of what is free.
        page_size: tokens per KV page; None lets the attention backend choose.
        prefix_caching: whether prompts that begin alike share what is computed of them.
        schedule: who begins first. "shard" groups requests by the prefix they share, computes each
            prefix once, and starts long answers first; "fcfs" takes them as they come.
        attention: the attention backend.
        kernels: what computes the rest of a layer; "auto" is the fastest that works here.
        quantization: "int8" keeps the layers' weights in eight bits and rounds each token's
            activations to eight, scaled by row; embedding, head, norms and KV cache stay as they
            are. "fp8" does the same in float8_e4m3fn, on GPUs from compute capability 8.9 on.
            "int4", "bnb-int8" and "bnb-nf4" keep weights in fewer bits and activations as they are.
            A checkpoint that is quantized already stays as it is: "none", or its own.
        cuda_graphs: replay captured decode steps on CUDA, where one rank computes alone.
        overlap: launch a step before the tokens of the one before it are known to the host, so that
            the device need not wait for it. Takes one rank. None does so on CUDA alone: on a CPU
            nothing is gained.
        threads: CPU threads of each rank; None is torch's own choice, divided by the ranks where
            they compute on the CPU.
        adapter: a LoRA adapter as PEFT saves it, which is merged into the weights: a local folder,
            a hub id (`org/name`, `org/name@revision`) or `s3://bucket/prefix`.
        adapters: adapters by name that are kept beside the weights. A request names one of them, or
            none; a step computes requests of all of them together.
    """

    checkpoint: str = Field(min_length=1)
    revision: str | None = None
    dtype: CheckedDType = "auto"
    device: Device = "auto"
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    max_batch_tokens: int | None = Field(default=None, ge=16)
    max_sequences: int = Field(default=256, ge=1)
    max_model_len: int | None = Field(default=None, ge=2)
    kv_cache_bytes: int | None = Field(default=None, ge=1 << 16)
    page_size: int | None = Field(default=None, ge=1, le=4096)
    prefix_caching: bool = True
    schedule: SchedulePolicy = "shard"
    attention: AttentionName = "auto"
    kernels: KernelsName = "auto"
    quantization: Quantization = "none"
    cuda_graphs: bool = True
    overlap: bool | None = None
    threads: int | None = Field(default=None, ge=1)
    adapter: str | None = Field(default=None, min_length=1)
    adapters: AdapterPaths = Field(default_factory=dict)
