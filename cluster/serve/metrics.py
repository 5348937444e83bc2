"""What the front door counts, for Prometheus. Labels are routes, models and names of keys only."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gemmaray_http_requests",
            "Requests that were answered.",
            ["route", "status"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "gemmaray_http_requests_in_flight", "Requests that are not.", registry=registry
        )
        self.seconds = Histogram(
            "gemmaray_http_request_seconds",
            "From a request to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "gemmaray_first_token_seconds",
            "From a request to the first token of its stream.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "gemmaray_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry
        )
        self.completion_tokens = Counter(
            "gemmaray_completion_tokens", "Tokens generated.", ["model"], registry=registry
        )

    def text(self) -> bytes:
        """Give them in Prometheus's text format."""
        return generate_latest(self._registry)


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
