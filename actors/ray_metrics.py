"""Metrics that Ray exports, from any process of a cluster, on the metrics port of its node.

Prometheus finds them there with `ray_` before the name, and with Ray's own labels (the session, the
process) beside ours.
"""

from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge, Histogram

from .engine_thread import EngineThread
from .metrics import ENGINE, ENGINE_COUNTERS, ENGINE_GAUGES, STALLED, Metric, Use


class RayMetrics:
    """Records through Ray.

    Args:
        metrics: those that will be recorded.
        tags: labels that all of them have, and their values in this process.
    """

    def __init__(self, metrics: Iterable[Metric], **tags: str) -> None:
        self._tags = tags
        self._made = {metric.name: _made(metric, tuple(tags)) for metric in metrics}

    def record(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram; see Recorder."""
        tags = {**self._tags, **dict(zip(metric.labels, labels, strict=True))}
        made = self._made[metric.name]
        if isinstance(made, Gauge):
            made.set(value, tags)
        elif isinstance(made, Histogram):
            made.observe(value, tags)
        elif value > 0:  # Ray refuses to add nothing
            made.inc(value, tags)


class EngineMetrics:
    """Exports what an engine says of itself.

    Args:
        model: how its model is called.
        use: what it computes.
    """

    def __init__(self, model: str, use: Use) -> None:
        self._metrics = RayMetrics(ENGINE, model=model, use=use)
        self._told = dict.fromkeys(ENGINE_COUNTERS, 0)

    def update(self, engine: EngineThread) -> None:
        """Export what has changed since the last time."""
        stats = engine.counters()
        for field, metric in ENGINE_COUNTERS.items():
            value: int = getattr(stats, field)
            self._metrics.record(metric, value - self._told[field])
            self._told[field] = value
        for field, metric in ENGINE_GAUGES.items():
            self._metrics.record(metric, getattr(stats, field))
        self._metrics.record(STALLED, engine.stalled_s)


def _made(metric: Metric, tags: tuple[str, ...]) -> Counter | Gauge | Histogram:
    keys = (*tags, *metric.labels)
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.about, list(metric.buckets), keys)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.about, keys)
