import json
from pathlib import Path

import pytest

from benchmarks.peers import launch
from benchmarks.spec import BenchmarkError, Spec


def test_a_peer_starts_as_it_is_installed(checkpoint: Path, tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    spec = Spec("vllm", checkpoint, "bfloat16", "cpu", 2, settings={"kv_gib": 3})
    with pytest.raises(launch.PeerMissingError, match=r"install\.sh"):
        launch.prepare(spec, tmp_path)
    python.parent.mkdir(parents=True)
    python.touch()
    found = launch.prepare(spec, tmp_path)
    assert found.command("--replies", "9")[0] == str(python)
    assert found.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert found.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    assert Spec.from_plain(json.loads(found.command()[3])) == spec


def test_peers_that_cannot_be_compared_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="causal language model"):
        launch.prepare(Spec("vllm", classifier, "bfloat16", "cpu", 2), tmp_path)
    with pytest.raises(BenchmarkError, match="CPUs only"):
        launch.prepare(Spec("llama.cpp", classifier, "bfloat16", "cuda", 2), tmp_path)
