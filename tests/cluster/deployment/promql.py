"""The queries of the rules and of the dashboard, and what they name."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import yaml

MONITORING = Path(__file__).resolve().parents[3] / "cluster" / "monitoring"
# What Grafana puts in.
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}

# The series that there are: the labels of each.
Series = Mapping[str, frozenset[str]]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return found


def queries() -> list[str]:
    """All expressions, as Prometheus gets them."""
    found = [rule["expr"] for rule in rules()]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            found.append(text)
    return found


def nodes(query: str) -> list[promql_parser.Expr]:
    found: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    return found


def recorded() -> Series:
    """The series that the rules make, with the labels that they are grouped by."""
    return {
        rule["record"]: frozenset(
            label
            for node in nodes(rule["expr"])
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier
            for label in node.modifier.labels
        )
        for rule in rules()
        if "record" in rule
    }


def faults(query: str, series: Series) -> Iterable[str]:
    """Say what a query names that is not there."""
    found = nodes(query)
    selectors = [node for node in found if isinstance(node, promql_parser.VectorSelector)]
    known: set[str] = set()
    for selector in selectors:
        name = str(selector.name)
        if name not in series:
            yield f"{query}: there is no {name}"
            continue
        known |= series[name]
        for matcher in selector.matchers.matchers:
            if matcher.name not in series[name]:
                yield f"{query}: {name} has no label {matcher.name}"
    for node in found:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            for label in set(node.modifier.labels) - known:
                yield f"{query}: nothing has a label {label}"
