"""GPUs and kernels of machines that are not here."""

import dataclasses

import pytest

from cluster.doctor import compute
from cluster.doctor.compute import Gpu, Torch, check_flash, check_gpu, check_kernels, check_torch

GIB = 1 << 30
CPU = Torch("2.13.0+cpu", None, (), has_driver=False)
H100 = Gpu("H100", (9, 0), 79 * GIB, 80 * GIB)
CUDA = Torch("2.13.0+cu130", "13.0", (H100,), has_driver=True)


@pytest.mark.parametrize(
    ("torch", "states", "text"),
    [
        (CPU, ["ok"], "for CPUs; no GPU here"),
        (dataclasses.replace(CPU, has_driver=True), ["warning"], "has NVIDIA's driver"),
        (CUDA, ["ok", "ok"], "CUDA 13.0; 1 to compute on"),
        (dataclasses.replace(CUDA, gpus=(), has_driver=False), ["ok"], "no GPU here"),
        (
            dataclasses.replace(CUDA, gpus=(), why_no_gpu="the driver is too old"),
            ["problem"],
            "finds no GPU: the driver is too old",
        ),
    ],
)
def test_torch_and_gpus(torch: Torch, states: list[str], text: str) -> None:
    found = list(check_torch(torch))
    assert [finding.state for finding in found] == states
    assert text in found[0].text


@pytest.mark.parametrize(
    ("gpu", "state"),
    [
        (H100, "ok"),
        (dataclasses.replace(H100, free=GIB), "warning"),
        (dataclasses.replace(H100, capability=(7, 5)), "warning"),
    ],
)
def test_a_gpu(gpu: Gpu, state: str) -> None:
    found = check_gpu(0, gpu)
    assert (found.check, found.state) == ("gpu 0", state)


def test_flash_attention_is_tried_for_both_head_sizes() -> None:
    found = list(check_flash(lambda size: "no soft cap" if size == 256 else None))
    assert [(finding.check, finding.state) for finding in found] == [
        ("flash-attn 128", "ok"), ("flash-attn 256", "warning"),
    ]  # fmt: skip


def test_kernels() -> None:
    assert check_kernels(None).state == "ok"
    found = check_kernels("this CPU lacks AVX-512")
    assert (found.state, found.text) == ("warning", "this CPU lacks AVX-512")


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Torch:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(compute, "look_at_torch", fail)
    (found,) = compute.examine()
    assert found.state == "problem"
    assert found.text.endswith("cannot open shared object file")
