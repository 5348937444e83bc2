"""What Prometheus finds on the metrics port of a node while gemmaray serves and runs jobs.

What serves is the manifest's own application, with a small model in place of a large one.
"""

import json
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from actors.metrics import ENGINE, JOB, Metric
from actors.progress import started_board
from actors.replica import Replica
from cluster.serve.access import add_key
from cluster.serve.metrics import FRONT_DOOR
from tests.actors.test_replica import Work, packet
from tests.cluster.serve.conftest import FOLDERS, config

from .promql import faults, queries, recorded
from .test_kuberay import custom

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAME = "watched"
# Ray takes what processes recorded every ten seconds.
PATIENCE_S = 60.0
KINDS = {"counter": "_total", "gauge": "", "histogram": "_count"}


@dataclass(frozen=True)
class Scraped:
    """The samples of a node, and how many tokens were asked for."""

    samples: list[Sample]
    generated: int

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape() -> list[Sample]:
    node = ray.nodes()[0]
    with urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10
    ) as reply:
        text = reply.read().decode()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def wanted(metric: Metric) -> str:
    return f"ray_{metric.name}{KINDS[metric.kind]}"


@pytest.fixture(scope="module")
def scraped(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    key = add_key(keys, "somebody")
    # As `serve deploy` and KubeRay do it.
    _get_global_client().deploy_apps(deployed(keys), _blocking=True)
    kind = ray.remote(Replica)
    with started_board({}) as board:
        replica = kind.options(num_cpus=0.5).remote(config("demo"), Work(), board)
        ray.get(replica.__call__.remote(packet(5, 0, 6)))
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
            generated = ask(client)
        yield settled(generated)
        ray.kill(replica)
    serve.shutdown()


def deployed(keys: Path) -> ServeDeploySchema:
    """The manifest's configuration of Serve, for this machine."""
    found = yaml.safe_load(custom("rayservice")["spec"]["serveConfigV2"])
    args = found["applications"][0]["args"]
    demo = {"model": str(FOLDERS["demo"]), "device": "cpu", "name": NAME, "cpus": 0.5}
    args["models"] = [{**args["models"][0], **demo, "threads": 1, "kv_cache_bytes": 64 << 20}]
    args["api_key_file"] = str(keys)
    return ServeDeploySchema.model_validate(found)


def ask(client: httpx.Client) -> int:
    """Make every kind of measurement; gives the tokens that were generated."""
    prompt = "Name the section of this Debian package. " * 20
    body = {"model": NAME, "prompt": prompt, "max_tokens": 9, "ignore_eos": True}
    generated = 0
    for stream in (False, True):  # the second one finds its prompt in the cache
        reply = client.post("/v1/completions", json={**body, "stream": stream}, timeout=60)
        assert reply.status_code == 200
        generated += 9
    assert client.post("/v1/completions", json={"model": "none"}).status_code == 400
    # Its deadline passes while it is written.
    endless = {**body, "max_tokens": 7000, "stream": True, "timeout": 1}
    reply = client.post("/v1/completions", json=endless, timeout=60)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data:")]
    assert "error" in events[-1]
    return generated


def settled(generated: int) -> Scraped:
    """Scrape until everything is there, the engine's last steps too."""
    end = time.monotonic() + PATIENCE_S
    names = {wanted(metric) for metric in (*ENGINE, *JOB, *FRONT_DOOR)}
    while True:
        found = Scraped(scrape(), generated)
        missing = names - {sample.name for sample in found.samples}
        tokens = found.sum("ray_gemmaray_engine_output_tokens_total", model=NAME)
        if not missing and tokens > generated:
            return found
        assert time.monotonic() < end, f"never exported: {sorted(missing)}; {tokens} tokens"
        time.sleep(1)


def test_numbers_are_what_was_asked(scraped: Scraped) -> None:
    served = {"model": NAME, "use": "serving"}
    assert scraped.sum("ray_gemmaray_completion_tokens_total", model=NAME) > scraped.generated
    assert scraped.sum("ray_gemmaray_engine_output_tokens_total", **served) > scraped.generated
    assert scraped.sum("ray_gemmaray_first_token_seconds_count", model=NAME) == 2
    assert scraped.sum("ray_gemmaray_inter_token_seconds_count", model=NAME) >= 8
    assert scraped.sum("ray_gemmaray_stream_errors_total", model=NAME, status="408") == 1
    assert scraped.sum("ray_gemmaray_engine_cache_pages", **served) > 0
    lookups = scraped.sum("ray_gemmaray_engine_prefix_lookup_tokens_total", **served)
    assert 0 < scraped.sum("ray_gemmaray_engine_prefix_hit_tokens_total", **served) < lookups
    requests = "ray_gemmaray_http_requests_total"
    assert scraped.sum(requests, route="/v1/completions", status="200") >= 3
    assert scraped.sum(requests, route="/v1/completions", status="400") >= 1


def test_a_job_says_its_rows(scraped: Scraped) -> None:
    job = {"model": config("demo").checkpoint}
    assert scraped.sum("ray_gemmaray_job_rows_total", **job) == 3
    assert scraped.sum("ray_gemmaray_job_failed_rows_total", **job) == 1
    assert scraped.sum("ray_gemmaray_job_units_total", **job) == 1
    assert scraped.sum("ray_gemmaray_engine_output_tokens_total", use="job", **job) > 0


def test_labels_are_few_and_say_nothing_of_requests(scraped: Scraped) -> None:
    ours = [sample for sample in scraped.samples if sample.name.startswith("ray_gemmaray_")]
    labels = {name for sample in ours for name in sample.labels if not name.startswith("otel_")}
    rays = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}
    assert labels - rays == {"le", "model", "use", "route", "status"}


def test_rules_and_dashboard_find_what_they_ask_for(scraped: Scraped) -> None:
    series: dict[str, set[str]] = defaultdict(set)
    for sample in scraped.samples:
        series[sample.name] |= sample.labels.keys()
    there = {name: frozenset(labels) for name, labels in series.items()} | recorded()
    assert [fault for query in queries() for fault in faults(query, there)] == []
