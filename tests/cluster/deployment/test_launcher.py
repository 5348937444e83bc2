"""The file for Ray's cluster launcher."""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_command

ROOT = Path(__file__).resolve().parents[3]
START = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config() -> dict[str, Any]:
    text = (ROOT / "cluster" / "launcher" / "aws.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_ray_takes_it(config: dict[str, Any]) -> None:
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(config, json.loads(schema.read_text()))


def test_ray_takes_it_with_its_own_defaults_filled_in(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would ask AWS what the machines have.
    monkeypatch.setattr(
        "ray.autoscaler._private.aws.node_provider.AWSNodeProvider."
        "fillout_available_node_types_resources",
        lambda cluster: cluster,
    )
    validate_config(prepare_config(config))


@pytest.mark.parametrize("commands", START)
def test_ray_is_started_with_a_token_and_a_dashboard_on_loopback(
    config: dict[str, Any], commands: str
) -> None:
    start = config[commands][-1]
    _, _, command = start.rpartition(";")
    words = shlex.split(command)
    place = next(n for n, word in enumerate(words) if word.endswith("/ray"))
    assert "RAY_AUTH_MODE=token" in words[:place]
    assert words[place + 1] == "start"
    options = [word.replace("$RAY_HEAD_IP", "10.0.0.1") for word in words[place + 2 :]]
    parsed = ray_command.commands["start"].make_context("start", options).params
    assert parsed["metrics_export_port"] == 8080
    assert parsed["dashboard_host"] == "127.0.0.1" or not parsed["head"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_head_computes_nothing_and_a_gpu_is_there(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["gpu"]["min_workers"] >= 1, "a job looks for GPUs that are there"
    assert types["gpu"]["max_workers"] <= config["max_workers"]
    for kind in types.values():
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True
