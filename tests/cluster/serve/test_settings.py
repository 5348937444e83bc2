"""What an application is built from, and the two commands."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.serve import ModelArgs, ServeArgs
from cluster.serve.configfile import read_args
from model.errors import ParameterError
from tests.cluster.conftest import Command

from .conftest import FOLDERS


def test_one_model_may_stand_without_a_list() -> None:
    values = {"model": "google/gemma-2-2b-it", "tensor_parallel": "2", "anonymous": "true"}
    args = ServeArgs.model_validate(values)
    (model,) = args.models
    assert model.served_name == "google/gemma-2-2b-it"
    assert model.engine_config().tensor_parallel == 2
    assert args.anonymous


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/gemma-2-2b-it", "google/gemma-2-2b-it"),
        ("/models/mine", "mine"),
        ("./mine", "mine"),
        ("a/b/mine/", "mine"),
        ("s3://bucket/models/mine", "mine"),
    ],
)
def test_a_model_is_called_after_where_it_lies(model: str, name: str) -> None:
    assert ModelArgs(model=model).served_name == name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"anonymous": False}, "who may use"),
        ({"api_key_file": "keys"}, "who may use"),
        ({"models": []}, "models is empty"),
        ({"models": [{"model": "a/b"}, {"model": "/x", "name": "a/b"}]}, "'a/b'"),
        ({"models": [{"model": "a/b", "replicas": "3..2"}]}, "MIN..MAX"),
        ({"models": [{"model": "a/b", "replica": 2}]}, "replica"),
        ({"models": [{"model": "a/b", "dtype": "float16"}]}, "float16"),
        ({"front_door": 1}, "front_door"),
        ({"limits": {"timeout_s": float("nan")}}, "timeout_s"),
    ],
)
def test_arguments_that_can_not_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServeArgs.model_validate({"models": [{"model": "a/b"}], "anonymous": True, **changes})


def test_autoscaling_has_a_target_that_is_reached() -> None:
    model = ModelArgs(model="a/b", replicas="1..4", max_ongoing=32)
    assert model.replica_range == (1, 4)
    assert model.target == 16
    assert ModelArgs(model="a/b", target_ongoing=3).target == 3


def test_what_ray_serve_is_told(tmp_path: Path) -> None:
    # Imported here: it takes seconds, and brings Ray.
    deployments = importlib.import_module("cluster.serve.deployments")
    model = ModelArgs(model="a/b", replicas="1..4", device="cuda", tensor_parallel=2, max_queued=9)
    options = deployments._options(model, "b", 30.0)
    assert options["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 2}
    assert options["max_queued_requests"] == 9
    assert options["graceful_shutdown_timeout_s"] == 30
    assert options["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 32,
    }
    fixed = deployments._options(ModelArgs(model="a/b", replicas=2, device="cpu"), "b", 30.0)
    assert fixed["num_replicas"] == 2
    assert fixed["ray_actor_options"] == {"num_cpus": 1}
    taken: set[str] = set()
    for model_name in ("google/gemma-2-2b", "google-gemma-2-2b", "\N{PILE OF POO}"):
        taken.add(deployments._deployment_name(model_name, taken))
    assert taken == {"google-gemma-2-2b", "google-gemma-2-2b-2", "model"}


def test_batches_take_half_of_what_the_least_replicas_do() -> None:
    assert ModelArgs(model="a/b", replicas="2..4").batch_lines == 64
    assert ModelArgs(model="a/b", replicas=3, batch_ongoing=5).batch_lines == 15
    assert ModelArgs(model="a/b", max_ongoing=1).batch_lines == 1


def test_arguments_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "args.yaml"
    monkeypatch.delenv("GEMMARAY_TEST", raising=False)
    with pytest.raises(ParameterError, match="set GEMMARAY_TEST"):
        read_args("GEMMARAY_TEST")
    monkeypatch.setenv("GEMMARAY_TEST", str(file))
    with pytest.raises(ParameterError, match="No such file"):
        read_args("GEMMARAY_TEST")
    file.write_text("models: [{model: a/b}]\nanonymous: true\n")
    assert read_args("GEMMARAY_TEST").models[0].model == "a/b"
    file.write_text("models: 3\n")
    with pytest.raises(ParameterError, match="models"):
        read_args("GEMMARAY_TEST")


def test_making_a_key(gemmaray: Command, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = gemmaray("api-key", str(file), "me")
    assert made.status == 0
    assert made.out.startswith("gr-")
    assert "me sha256:" in file.read_text()
    again = gemmaray("api-key", str(file), "you")
    assert len(file.read_text().splitlines()) == 2
    assert again.out != made.out
    assert gemmaray("api-key", str(file), "a b").status == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "open to others"),
        (["--replicas", "0"], "at least 1"),
        (["--api-key-file", "/no/such/file"], "can't read the key file"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--dtype", "float16"], "float16"),
    ],
)
def test_what_can_not_be_served_is_one_line(
    gemmaray: Command, options: list[str], says: str
) -> None:
    done = gemmaray("serve", "--model", str(FOLDERS["demo"]), "--port", "8999", *options)
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err
