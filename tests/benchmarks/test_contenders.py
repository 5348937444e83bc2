from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import checkpoints
from benchmarks.contenders import Gemmaray
from benchmarks.peers.static_batches import Transformers
from benchmarks.report import gemm_gflop
from benchmarks.spec import Spec
from benchmarks.workloads import Workload
from model.config import ModelConfig


def spec(folder: Path, **settings: int) -> Spec:
    return Spec("gemmaray", folder, "float32", "cpu", threads=1, settings=settings)


@pytest.mark.parametrize("text", ["sharegpt:7:0.1", "shared-prefix:4:0.1"])
def test_both_engines_give_the_same_tokens(checkpoint: Path, text: str) -> None:
    requests = Workload.parse(text).requests()
    ours = Gemmaray(spec(checkpoint)).run(requests)
    assert ours == Transformers(spec(checkpoint, batch=3)).run(requests)
    assert [len(answer) for answer in ours] == [request.output_len for request in requests]


def test_both_engines_give_the_same_labels(classifier: Path) -> None:
    requests = Workload.parse("classify:8:0.2").requests()
    ours = Gemmaray(spec(classifier)).run(requests)
    assert ours == Transformers(spec(classifier, batch=3)).run(requests)
    assert len({label for (label,) in ours}) > 1


def test_gemm_work_is_two_for_each_weight_a_token_meets(checkpoint: Path, classifier: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    head = model.lm_head.weight.numel()
    layers = sum(linear.weight.numel() for linear in linears) - head
    config = ModelConfig.from_folder(checkpoint)
    assert gemm_gflop(config, 10, 4) == pytest.approx(2e-9 * (layers * 14 + head * 4))
    # A label is no token: its prompt is all that is computed.
    config = ModelConfig.from_folder(classifier)
    assert gemm_gflop(config, 10, 1) == pytest.approx(2e-9 * (layers * 10 + 5 * 32))


def test_a_checkpoint_is_made_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def write(_shape: checkpoints.Shape, folder: Path, *, labels: int) -> None:
        made.append(folder)
        (folder / "config.json").write_text(str(labels))

    monkeypatch.setattr(checkpoints, "write", write)
    folder = tmp_path / "checkpoints" / "tiny"
    assert checkpoints.ensure("tiny", folder=folder) == folder
    assert checkpoints.ensure("tiny", folder=folder) == folder
    assert len(made) == 1
    assert list(folder.parent.iterdir()) == [folder]


def test_tensors_do_not_depend_on_the_file_they_are_in() -> None:
    first = checkpoints.make_tensor("model.norm.weight", (64,), 0)
    assert torch.equal(first, checkpoints.make_tensor("model.norm.weight", (64,), 0))
    assert not torch.equal(first, checkpoints.make_tensor("model.other.weight", (64,), 0))
    assert float(first.float().mean()) == pytest.approx(11.0, abs=0.1)
