"""Rules and dashboard: valid, and about metrics that the code records."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors.metrics import ENGINE, JOB
from cluster.serve.metrics import FRONT_DOOR, Metrics, _made

from .promql import MONITORING, Series, dashboard, faults, nodes, queries, recorded, rules

RULES = MONITORING / "rules.yaml"
ALERTS = Path(__file__).with_name("alerts.yaml")
# What RayMetrics adds; tests/cluster/deployment/test_exported.py looks at the real thing.
TAGS = {ENGINE: {"model", "use"}, JOB: {"model"}, FRONT_DOOR: set[str]()}


@pytest.fixture(scope="module")
def series() -> Series:
    """Ours, as Prometheus's own client names them, under Ray's prefix; and those of the rules."""
    found: dict[str, frozenset[str]] = dict(recorded())
    for metrics, tags in TAGS.items():
        registry = CollectorRegistry()
        for metric in metrics:
            made = _made(metric, registry)
            if metric.labels:
                made.labels(*metric.labels)
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                found[f"ray_{sample.name}"] = frozenset({*sample.labels, *tags})
    return found


def test_queries_name_what_is_recorded(series: Series) -> None:
    ours = [query for query in queries() if "ray_serve_" not in query]
    assert len(ours) > 40
    assert [fault for query in ours for fault in faults(query, series)] == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        (
            "sum(ray_gemmaray_engine_promt_tokens_total)",
            "no ray_gemmaray_engine_promt",
        ),
        ("ray_gemmaray_http_requests_total{code='200'}", "no label code"),
        ("sum by (replica) (ray_gemmaray_engine_cache_pages)", "nothing has a label replica"),
        ("rate(ray_gemmaray_job_rows[5m])", "no ray_gemmaray_job_rows"),
    ],
)
def test_what_is_misspelt_is_found(series: Series, query: str, fault: str) -> None:
    (found,) = faults(query, series)
    assert re.search(fault, found)


def test_every_metric_is_shown(series: Series) -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", str(node.name))
        for query in queries()
        for node in nodes(query)
        if isinstance(node, promql_parser.VectorSelector)
    }
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series if name.startswith("ray_")}
    created = {name for name in ours if name.endswith("_created")}
    assert ours - shown - created == {"ray_gemmaray_engine_requests_total"}


def test_counters_are_seen_as_rates_and_buckets_as_quantiles() -> None:
    for query in queries():
        calls = [node for node in nodes(query) if isinstance(node, promql_parser.Call)]
        if "_total" in query or "_bucket" in query:
            assert {"rate", "increase"} & {call.func.name for call in calls}, query
        if "_bucket" in query:
            assert "histogram_quantile" in {call.func.name for call in calls}
            assert "by (le" in query


def test_rules_have_what_prometheus_and_a_person_need() -> None:
    names = Counter(rule.get("alert") or rule["record"] for rule in rules())
    assert max(names.values()) == 1
    for rule in rules():
        if "record" in rule:
            assert re.fullmatch(r"gemmaray:\w+:\w+", rule["record"])
            continue
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0m"))
        templates = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", templates)) <= labels_of(rule["expr"])


def labels_of(query: str) -> set[str]:
    """The labels of an alert's series."""
    found: set[str] = set()
    for node in nodes(query):
        if isinstance(node, promql_parser.AggregateExpr):
            found |= set(node.modifier.labels if node.modifier else ())
        if isinstance(node, promql_parser.VectorSelector):
            found |= recorded().get(str(node.name), frozenset())
    return found


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")
    for command in (("check", "rules", RULES), ("test", "rules", ALERTS)):
        finished = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr


def test_prometheus_is_told_of_the_rules() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    assert all((MONITORING / name).is_file() for name in config["rule_files"])


def test_the_dashboard_is_whole() -> None:
    board = dashboard()
    panels: list[dict[str, Any]] = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in target["expr"]
    names = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", str(panels))) - {"__rate_interval"}
    assert used == names


def test_front_doors_tell_who_listens_what_they_count() -> None:
    told: list[tuple[str, float, tuple[str, ...]]] = []

    class Beside:
        def record(self, metric: Any, value: float, *labels: str) -> None:
            told.append((metric.name, value, labels))

    metrics = Metrics(Beside())
    for metric in FRONT_DOOR:
        metrics.record(metric, 2, *metric.labels)
    assert told == [(metric.name, 2, metric.labels) for metric in FRONT_DOOR]
    text = metrics.text().decode()
    assert 'gemmaray_stream_errors_total{model="model",status="status"} 2.0' in text
    assert "gemmaray_http_requests_in_flight 2.0" in text
    assert 'gemmaray_inter_token_seconds_sum{model="model"} 2.0' in text
