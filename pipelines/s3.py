"""How S3 is reached, beyond what the environment says."""

from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from model.params import Settings

Name = Annotated[str, Field(min_length=1)]


class S3Settings(Settings):
    """What a job says of the S3 that it reads from and writes to.

    What is left out comes from the environment (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_REGION, ...), as
    in every AWS client. Keys and other secrets always do: there is no setting for them, so they are
    never written down.

    Attributes:
        endpoint: http:// or https:// URL of a store that is not Amazon's.
        region: of the buckets.
        profile: of ~/.aws/config and ~/.aws/credentials, on every node.
        anonymous: send no credentials: for buckets that everybody may read.
    """

    endpoint: Name | None = None
    region: Name | None = None
    profile: Name | None = None
    anonymous: bool = False

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = urlsplit(value)
            known = url.scheme in {"http", "https"} and bool(url.hostname)
        except ValueError:
            known = False
        if not known:
            raise ValueError("must be a URL such as https://s3.example.com:9000")
        if "@" in url.netloc or url.query:
            raise ValueError("must hold no credentials: give them in the environment or a profile")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.anonymous and self.profile:
            raise ValueError("anonymous and profile contradict each other: choose one")
        return self

    def client_options(self) -> dict[str, Any]:
        """Give what s3fs is to be told; nothing for what the environment decides."""
        options: dict[str, Any] = {
            "endpoint_url": self.endpoint,
            "profile": self.profile,
            "anon": self.anonymous,
            "client_kwargs": {"region_name": self.region} if self.region else None,
        }
        return {name: value for name, value in options.items() if value}


ENVIRONMENT = S3Settings()
