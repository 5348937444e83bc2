"""/v1/models and /health."""

from typing import Literal

from model.chat import SystemPolicy

from .base import Reply


class ModelCard(Reply):
    """A served model; `system` says what becomes of a system message.

    `parent` is the model that an adapter changes, and null for others.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["gemmaray"] = "gemmaray"
    architecture: str
    max_model_len: int
    chat: bool
    system: SystemPolicy
    parent: str | None = None


class ModelList(Reply):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Reply):
    """Whether requests are taken."""

    status: Literal["ok"] = "ok"
