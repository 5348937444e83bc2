"""What the front door measures. Labels are routes, statuses and models, never a request's words."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from actors.metrics import Metric, Recorder

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

REQUESTS = Metric(
    "counter", "gemmaray_http_requests", "Requests that were answered.", ("route", "status")
)
IN_FLIGHT = Metric("gauge", "gemmaray_http_requests_in_flight", "Requests that are not.")
REQUEST_SECONDS = Metric(
    "histogram",
    "gemmaray_http_request_seconds",
    "From a request to the end of its response.",
    ("route",),
    SECONDS,
)
FIRST_TOKEN_SECONDS = Metric(
    "histogram",
    "gemmaray_first_token_seconds",
    "From a request to the first token of its stream.",
    ("model",),
    SECONDS,
)
INTER_TOKEN_SECONDS = Metric(
    "histogram",
    "gemmaray_inter_token_seconds",
    "From one token of a streamed answer to the next.",
    ("model",),
    TOKEN_SECONDS,
)
STREAM_ERRORS = Metric(
    "counter",
    "gemmaray_stream_errors",
    "Streams that ended with an error after their status was sent.",
    ("model", "status"),
)
PROMPT_TOKENS = Metric("counter", "gemmaray_prompt_tokens", "Tokens of prompts.", ("model",))
COMPLETION_TOKENS = Metric("counter", "gemmaray_completion_tokens", "Tokens generated.", ("model",))
FRONT_DOOR = (
    REQUESTS,
    IN_FLIGHT,
    REQUEST_SECONDS,
    FIRST_TOKEN_SECONDS,
    INTER_TOKEN_SECONDS,
    STREAM_ERRORS,
    PROMPT_TOKENS,
    COMPLETION_TOKENS,
)


class Metrics:
    """The measurements of one front door, in a registry of its own.

    Args:
        beside: is told the same.
    """

    def __init__(self, beside: Recorder | None = None) -> None:
        self._registry = CollectorRegistry()
        self._made = {metric.name: _made(metric, self._registry) for metric in FRONT_DOOR}
        self._beside = beside

    def record(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram; see Recorder."""
        made = self._made[metric.name]
        series = made.labels(*labels) if labels else made
        if isinstance(series, Gauge):
            series.set(value)
        elif isinstance(series, Histogram):
            series.observe(value)
        else:
            series.inc(value)
        if self._beside is not None:
            self._beside.record(metric, value, *labels)

    def text(self) -> bytes:
        """Give them in Prometheus's text format."""
        return generate_latest(self._registry)


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    about = (metric.name, metric.about, metric.labels)
    if metric.kind == "histogram":
        return Histogram(*about, buckets=metric.buckets, registry=registry)
    return (Counter if metric.kind == "counter" else Gauge)(*about, registry=registry)


class BatchMetrics:
    """What the worker of batches counts."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.open = Gauge(
            "gemmaray_batches_open", "Batches that have not ended.", registry=registry
        )
        self.ended = Counter(
            "gemmaray_batches_ended", "Batches that have.", ["status"], registry=registry
        )
        self.lines = Counter(
            "gemmaray_batch_lines",
            "Lines of batches, by what became of them.",
            ["result"],
            registry=registry,
        )

    def line(self, failed: bool) -> None:  # noqa: FBT001 - a listener's only argument
        """Count a line."""
        self.lines.labels("failed" if failed else "completed").inc()

    def text(self) -> bytes:
        """Give them in Prometheus's text format."""
        return generate_latest(self._registry)
