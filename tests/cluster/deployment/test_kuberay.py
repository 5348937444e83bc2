"""The manifests for KubeRay: valid, safe, and meaning what we mean."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.serve.settings import ServeArgs
from pipelines import JobSpec
from tests.test_repository import parse

ROOT = Path(__file__).resolve().parents[3]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = Path(__file__).parent / "schemas"
RAY_CUSTOM = ("rayjob", "rayservice")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / f"{name}.yaml").read_text(encoding="utf-8")))


def custom(name: str) -> dict[str, Any]:
    """The RayJob or RayService of a file."""
    (found,) = (d for d in documents(name) if d["apiVersion"] == "ray.io/v1")
    return found


def cluster_of(name: str) -> dict[str, Any]:
    spec = custom(name)["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return cluster


def strict(schema: Any) -> Any:
    """A schema that refuses what Kubernetes would drop in silence: fields that it doesn't name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module", params=RAY_CUSTOM)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def schema(kind: str) -> Mapping[str, Any]:
    with gzip.open(SCHEMAS / f"{kind}-v1.json.gz", "rt", encoding="utf-8") as file:
        found: dict[str, Any] = strict(json.load(file))
    found["properties"]["metadata"] = {"type": "object"}
    return found


def pods(name: str) -> Iterator[dict[str, Any]]:
    """All pod templates of a manifest."""
    cluster = cluster_of(name)
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]
    if submitter := custom(name)["spec"].get("submitterPodTemplate"):
        yield submitter


def size(text: str) -> int:
    """Bytes of a Kubernetes quantity."""
    for suffix, factor in (("Gi", 1 << 30), ("Mi", 1 << 20)):
        if text.endswith(suffix):
            return int(text.removesuffix(suffix)) * factor
    return int(text)


def limits(template: Mapping[str, Any]) -> dict[str, str]:
    """What the pods of a template may use."""
    found: dict[str, str] = template["spec"]["containers"][0]["resources"]["limits"]
    return found


def test_manifests_fit_the_published_schema(kind: str, schema: Mapping[str, Any]) -> None:
    jsonschema.Draft7Validator(schema).validate(custom(kind))


@pytest.mark.parametrize(
    "path",
    [
        ("rayClusterSpec", "authOptions", "mood"),
        ("rayClusterSpec", "headGroupSpec", "template", "spec", "containerz"),
        ("backofLimit",),
    ],
)
def test_the_schema_finds_what_is_misspelt(path: tuple[str, ...]) -> None:
    with gzip.open(SCHEMAS / "rayjob-v1.json.gz", "rt", encoding="utf-8") as file:
        validator = jsonschema.Draft7Validator(strict(json.load(file)))
    wrong = custom("rayjob")
    place = wrong["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        validator.validate(wrong)


def test_clusters_ask_for_a_token_and_show_no_dashboard(kind: str) -> None:
    cluster = cluster_of(kind)
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert "enableIngress" not in head
    # The operator deploys and submits through it; a policy lets nobody else in.
    assert "dashboard-host" not in head["rayStartParams"]
    (policy,) = documents("networkpolicy")
    label = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(label.items() <= pod["metadata"]["labels"].items() for pod in pods(kind))
    reached = {
        port["port"]: [list(peer) for peer in rule["from"]]
        for rule in policy["spec"]["ingress"]
        for port in rule.get("ports", [])
    }
    assert reached.keys() == {8000, 8080, 8265}
    assert reached[8265] == [["namespaceSelector", "podSelector"]]


def test_containers_have_no_privileges_and_bounded_resources(kind: str) -> None:
    for pod in pods(kind):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000, "the image's user"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= asked.keys() & most.keys()
            assert size(asked["memory"]) <= size(most["memory"])


def test_the_object_store_fits_into_shared_memory_and_that_into_the_pod(kind: str) -> None:
    cluster = cluster_of(kind)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (container,) = spec["containers"]
        (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
        shared = volumes[mount["name"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < size(shared["sizeLimit"]) < size(container["resources"]["limits"]["memory"])
        assert {m["name"] for m in container["volumeMounts"]} == volumes.keys()


def test_secrets_are_named_and_never_written_down(kind: str) -> None:
    text = (KUBERAY / f"{kind}.yaml").read_text(encoding="utf-8")
    assert not any(d["kind"] == "Secret" for d in documents(kind))
    assert "sha256:" not in text
    named = {"gemmaray-s3", "gemmaray-keys"} if kind == "rayjob" else {"gemmaray-keys"}
    assert any(f"kubectl create secret generic {name}" in text for name in named)


def test_versions_are_those_of_the_project(kind: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster_of(kind)['rayVersion']}" in constraints
    images = {c["image"] for pod in pods(kind) for c in pod["spec"]["containers"]}
    assert images == {f"gemmaray:{version('gemmaray')}"}


def test_the_job_is_a_job_and_its_command_parses() -> None:
    (config,) = (d for d in documents("rayjob") if d["kind"] == "ConfigMap")
    spec = custom("rayjob")["spec"]
    head = cluster_of("rayjob")["headGroupSpec"]["template"]["spec"]
    job = JobSpec(**yaml.safe_load(config["data"]["job.yaml"]))
    words = spec["entrypoint"].split()
    assert words[0] == "gemmaray"
    parse(words[1:])
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == "job")
    assert words[2] == f"{mount['mountPath']}/job.yaml"
    (volume,) = (v for v in head["volumes"] if v["name"] == "job")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (workers,) = cluster_of("rayjob")["workerGroupSpecs"]
    gpus = int(limits(workers["template"])["nvidia.com/gpu"])
    assert gpus % job.resources.tensor_parallel == 0
    assert workers["minReplicas"] >= 1, "a job looks for GPUs that are there"
    assert str(job.resources.replicas) == f"1..{workers['maxReplicas'] * gpus}"
    # A head that is lost is made up for by a retry, which resumes.
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_the_service_is_what_serve_and_we_take() -> None:
    spec = custom("rayservice")["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "cluster.serve:build_app"
    args = ServeArgs.model_validate(application.args)
    assert args.api_key_file is not None
    for pod in pods("rayservice"):
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert any(args.api_key_file.startswith(m["mountPath"]) for m in mounts)
    assert config.http_options.port == 8000
    assert config.http_options.host == "0.0.0.0"
    assert config.proxy_location == "EveryNode"
    # Where it is built there may be no GPU, or none yet.
    assert all(model.device == "cuda" for model in args.models)
    (workers,) = cluster_of("rayservice")["workerGroupSpecs"]
    resources = limits(workers["template"])
    gpus = int(resources["nvidia.com/gpu"])
    wanted = sum(model.replica_range[1] * model.tensor_parallel for model in args.models)
    assert wanted == workers["maxReplicas"] * gpus
    assert sum(model.cpus for model in args.models) <= int(resources["cpu"])
    # Whoever ends answers first what it has taken.
    assert spec["rayClusterDeletionDelaySeconds"] > args.limits.timeout_s
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > args.limits.timeout_s


@pytest.mark.slow
def test_serve_build_gives_the_settings_that_are_deployed(tmp_path: Path) -> None:
    """What `serve build` writes, with the arguments of the manifest, deploys what these say."""
    config = yaml.safe_load(custom("rayservice")["spec"]["serveConfigV2"])
    args = config["applications"][0]["args"]
    keys = tmp_path / "keys.txt"
    keys.write_text(f"somebody sha256:{'0' * 64}\n")
    args["api_key_file"] = str(keys)
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(args))
    script = "from ray.serve.scripts import cli; cli()"
    finished = subprocess.run(
        [sys.executable, "-c", script, "build", "cluster.serve:app", "-o", tmp_path / "built.yaml"],
        cwd=ROOT,
        env={**os.environ, "GEMMARAY_SERVE_CONFIG": str(tmp_path / "args.yaml")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    built = ServeDeploySchema.model_validate(yaml.safe_load((tmp_path / "built.yaml").read_text()))
    (application,) = built.applications
    deployments = {deployment.name: deployment for deployment in application.deployments}
    assert deployments.keys() == {"front-door", "google-gemma-2-9b-it"}
    assert deployments["front-door"].num_replicas == args["front_doors"]
    engine = deployments["google-gemma-2-9b-it"]
    (model,) = ServeArgs.model_validate(args).models
    assert isinstance(engine.autoscaling_config, dict)
    scaling = engine.autoscaling_config
    assert (scaling["min_replicas"], scaling["max_replicas"]) == model.replica_range
    assert scaling["target_ongoing_requests"] == model.target
    assert engine.max_ongoing_requests == model.max_ongoing
    assert engine.max_queued_requests == model.max_queued
    assert engine.graceful_shutdown_timeout_s > args["limits"]["timeout_s"]
    actor = engine.ray_actor_options.model_dump(exclude_unset=True)
    assert (actor["num_cpus"], actor["num_gpus"]) == (model.cpus, model.tensor_parallel)


def test_pods_are_scraped_where_they_say() -> None:
    (monitor,) = documents("podmonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    labels = monitor["spec"]["selector"]["matchLabels"]
    for name in RAY_CUSTOM:
        for pod in list(pods(name))[:2]:
            ports = {p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080
            # What KubeRay adds to its pods stands in no template.
            ours = {k: v for k, v in labels.items() if not k.startswith("ray.io/")}
            assert ours.items() <= pod["metadata"]["labels"].items()
