"""Ranks as child processes: they end with the engine, and the engine with them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from model import CheckpointError, EngineDeadError, ParameterError, SamplingParams
from tests.model.helpers import random_ids

from .conftest import Children, MakeEngine


@pytest.mark.slow
def test_a_killed_rank_ends_the_engine_with_one_clear_error(
    make: MakeEngine, children: Children
) -> None:
    engine = make(tensor_parallel=2)
    (rank,) = children()
    engine.generate([random_ids(9)], SamplingParams(max_tokens=2, ignore_eos=True))
    os.kill(rank, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(EngineDeadError, match=r"rank 1 died \(exit status -9\)"):
        engine.generate([random_ids(9)], SamplingParams(max_tokens=50, ignore_eos=True))
    assert time.monotonic() - started < 20
    assert not children()


@pytest.mark.slow
def test_what_a_rank_raises_while_loading_is_what_the_user_reads(
    make: MakeEngine, children: Children, folders: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders["lm"], broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    folders["broken"] = broken
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        make("broken", tensor_parallel=2)
    assert not children()


def test_more_ranks_than_the_model_can_be_cut_into(make: MakeEngine, children: Children) -> None:
    with pytest.raises(ParameterError, match="tensor_parallel"):
        make(tensor_parallel=3)
    assert not children()


@pytest.mark.slow
def test_ranks_end_when_their_parent_is_killed(folders: dict[str, Path]) -> None:
    program = (
        "import psutil, time\n"
        "from model import Engine, EngineConfig\n"
        f"engine = Engine(EngineConfig(checkpoint={str(folders['lm'])!r}, tensor_parallel=2))\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    rank = int(parent.stdout.readline())
    assert psutil.pid_exists(rank)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(rank) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(rank)
