"""What is counted for Prometheus, said once: names, kinds, labels.

Whoever records them decides how they get out: Ray exports those of every process of a cluster
(ray_metrics), and the front door of online serving writes its own at /metrics.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Use = Literal["serving", "job"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, or one distribution.

    Attributes:
        kind: a counter only grows, a gauge is what was set last, a histogram counts by buckets.
        name: as Prometheus knows it, but for the `_total` that comes behind counters.
        about: one sentence.
        labels: what tells its series apart: few values, and none that a client can make up.
        buckets: upper bounds, for a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Recorder(Protocol):
    """Takes measurements."""

    def record(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram.

        Args:
            metric: what was measured.
            value: how much; for a counter, how much more.
            labels: their values, in the metric's order.
        """
        ...


# By the field of model.stats.EngineStats that says it.
ENGINE_COUNTERS = {
    "steps": Metric("counter", "gemmaray_engine_steps", "Forward passes."),
    "finished": Metric("counter", "gemmaray_engine_requests", "Requests that ended."),
    "prompt_tokens": Metric(
        "counter", "gemmaray_engine_prompt_tokens", "Prompt tokens that were computed."
    ),
    "output_tokens": Metric(
        "counter", "gemmaray_engine_output_tokens", "Tokens that were generated."
    ),
    "prefix_queried_tokens": Metric(
        "counter",
        "gemmaray_engine_prefix_lookup_tokens",
        "Prompt tokens, in whole pages, that were looked for in the cache.",
    ),
    "prefix_hit_tokens": Metric(
        "counter", "gemmaray_engine_prefix_hit_tokens", "Those that were found there."
    ),
}
ENGINE_GAUGES = {
    "running": Metric(
        "gauge", "gemmaray_engine_running_requests", "Requests that are being computed."
    ),
    "waiting": Metric("gauge", "gemmaray_engine_waiting_requests", "Requests that are not yet."),
    "pages_held": Metric(
        "gauge", "gemmaray_engine_cache_pages_used", "KV pages that requests hold."
    ),
    "pages": Metric("gauge", "gemmaray_engine_cache_pages", "KV pages that there are."),
}
STALLED = Metric(
    "gauge", "gemmaray_engine_stalled_seconds", "For how long it has been in the same step."
)
ENGINE = (*ENGINE_COUNTERS.values(), *ENGINE_GAUGES.values(), STALLED)

ROWS = Metric("counter", "gemmaray_job_rows", "Rows of jobs that were computed.")
FAILED_ROWS = Metric("counter", "gemmaray_job_failed_rows", "Those that became error rows.")
UNITS = Metric("counter", "gemmaray_job_units", "Units of jobs whose part was committed.")
JOB = (ROWS, FAILED_ROWS, UNITS)
