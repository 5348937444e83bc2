"""The fields by which a request says what its answers have to be: see docs/structured-output.md."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from model.constraint import MAX_CHOICES, check_choices, check_regex, schema_text

from .base import Body, Text

Schema = dict[str, Any]


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema, as OpenAI wraps it. It always holds, strict or not."""

    name: str = Field(min_length=1, max_length=256, description="Changes nothing.")
    description: str | None = Field(default=None, max_length=65536, description="Changes nothing.")
    schema_: Schema = Field(alias="schema")
    strict: bool | None = Field(default=None, description="Changes nothing: it always holds.")

    @field_validator("schema_")
    @classmethod
    def _sound(cls, value: Schema) -> Schema:
        schema_text(value)
        return value


class JsonSchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Structured(BaseModel):
    """What chats and completions share; `guided_*` are not OpenAI's, and named as elsewhere."""

    response_format: ResponseFormat | None = None
    guided_json: Schema | Text | None = Field(
        default=None, description="The answer is JSON of this schema."
    )
    guided_regex: Text | None = Field(
        default=None, description="The whole answer matches this regular expression."
    )
    guided_choice: Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)] | None = (
        Field(default=None, description="The answer is one of these texts.")
    )

    _fields: ClassVar[tuple[str, ...]] = (
        "response_format",
        "guided_json",
        "guided_regex",
        "guided_choice",
    )

    @field_validator("guided_json")
    @classmethod
    def _schema(cls, value: Schema | str | None) -> Schema | str | None:
        if value is not None:
            schema_text(value)
        return value

    @field_validator("guided_regex")
    @classmethod
    def _regex(cls, value: str | None) -> str | None:
        return None if value is None else check_regex(value)

    @field_validator("guided_choice")
    @classmethod
    def _choices(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            check_choices(value)
        return value

    @model_validator(mode="after")
    def _one_constraint(self) -> "Structured":
        given = list(self._given())
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}: an answer has one constraint")
        return self

    @property
    def constraint(self) -> dict[str, Any]:
        """The setting of SamplingParams that asks for the same; none where anything will do."""
        if self.guided_json is not None:
            return {"json_schema": self.guided_json}
        if self.guided_regex is not None:
            return {"regex": self.guided_regex}
        if self.guided_choice is not None:
            return {"choice": self.guided_choice}
        match self.response_format:
            case JsonObjectFormat():
                return {"json_object": True}
            case JsonSchemaFormat(json_schema=named):
                return {"json_schema": named.schema_}
        return {}

    def _given(self) -> Iterator[str]:
        for name in self._fields:
            value = getattr(self, name)
            if value is not None and not isinstance(value, TextFormat):
                yield name
