"""/status."""

from .base import Reply


class EngineStatus(Reply):
    """One replica's engine; the counters start at 0 with it.

    Attributes:
        replica: names it, for as long as it lives.
        age_s: seconds since it said so. One that is full answers when it has a place.
        running: prompts that are being computed.
        waiting: prompts that are not yet.
        finished: prompts that ended.
        prompt_tokens: prompt tokens computed.
        output_tokens: tokens generated.
        cache_pages_used: pages of the KV cache that requests hold.
        cache_pages_total: pages that there are.
        prefix_hits: prompt tokens that were found in the cache.
        prefix_lookups: prompt tokens that were looked for.
    """

    replica: str
    age_s: float
    running: int
    waiting: int
    finished: int
    prompt_tokens: int
    output_tokens: int
    cache_pages_used: int
    cache_pages_total: int
    prefix_hits: int
    prefix_lookups: int


class ModelStatus(Reply):
    """One model.

    Attributes:
        id: what requests call it.
        architecture: which head it has; null while no replica has said so.
        replicas: how many are in which state.
        in_flight: requests that this front door has not answered yet, those included that wait for
            a replica.
        engines: the replicas that run.
    """

    id: str
    architecture: str | None
    replicas: dict[str, int]
    in_flight: int
    engines: list[EngineStatus]


class Status(Reply):
    """All of them."""

    models: list[ModelStatus]
