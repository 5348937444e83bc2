import threading
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2ForCausalLM,
    Gemma2ForTokenClassification,
    Gemma2Model,
    PreTrainedModel,
)

from model.checkpoint import Shard, load
from model.errors import CheckpointError
from model.weight_files import INDEX, SINGLE

from .checkpoints import Tensors, build, tied_weights, whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_size", ["1GB", "8KB"])
def test_reads_what_transformers_saved(tmp_path: Path, dtype: torch.dtype, shard_size: str) -> None:
    model = build()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / INDEX).exists() == (shard_size == "8KB")
    shards = whole(tied_weights(model), dtype)
    load(shards, tmp_path)
    for shard in shards:
        torch.testing.assert_close(
            shard.target, model.state_dict()[shard.name].to(dtype), rtol=0, atol=0
        )


class TimeLimitError(Exception):
    pass


def test_what_is_asked_between_tensors_can_end_the_loading(saved: tuple[Path, Tensors]) -> None:
    folder, tensors = saved
    shards = whole(tensors)
    filled: list[int] = []

    def check() -> None:
        filled.append(sum(not shard.target.isnan().any() for shard in shards))
        if len(filled) > 5:
            raise TimeLimitError

    with pytest.raises(TimeLimitError):
        load(shards, folder, check=check)
    assert filled == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [Gemma2ForCausalLM, Gemma2ForTokenClassification])
def test_untied_heads(tmp_path: Path, kind: type[PreTrainedModel]) -> None:
    model = build(kind, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    shards = whole(dict(model.state_dict()))
    load(shards, tmp_path)
    assert all(torch.equal(shard.target, model.state_dict()[shard.name]) for shard in shards)


def test_bare_backbone_goes_by_the_names_of_the_whole_model(tmp_path: Path) -> None:
    model = build(Gemma2Model)
    model.save_pretrained(tmp_path)
    shards = whole({f"model.{name}": tensor for name, tensor in model.state_dict().items()})
    load(shards, tmp_path)
    for shard in shards:
        assert torch.equal(shard.target, model.state_dict()[shard.name.removeprefix("model.")])


@pytest.mark.parametrize("rank", range(2))
def test_reads_only_the_slices_of_its_rank(saved: tuple[Path, Tensors], rank: int) -> None:
    folder, tensors = saved
    merged = torch.nn.Parameter(torch.full((2, 16, 16), torch.nan, dtype=torch.bfloat16))
    norm = torch.nn.Parameter(torch.full((3, 16), torch.nan))
    shards = whole(tensors)
    for index, name in enumerate(["q_proj", "o_proj"]):
        full_name = f"model.layers.1.self_attn.{name}.weight"
        part = slice(rank * 16, (rank + 1) * 16)
        slices = (part, slice(None)) if name == "q_proj" else (slice(0, 16), part)
        shards = [shard for shard in shards if shard.name != full_name]
        shards.append(Shard(full_name, tuple(tensors[full_name].shape), slices, merged[index]))
        expected = tensors[full_name][slices].bfloat16()
        load(shards, folder)
        assert torch.equal(merged[index], expected)
    # One tensor may go to several places.
    twice = [Shard("model.norm.weight", (16,), (slice(0, 16),), norm[i]) for i in (0, 2)]
    load(shards + twice, folder)
    assert torch.equal(norm[0], tensors["model.norm.weight"])
    assert torch.equal(norm[2], norm[0])
    assert norm[1].isnan().all()


@pytest.mark.gpu
def test_fills_targets_on_a_gpu(saved: tuple[Path, Tensors]) -> None:
    folder, tensors = saved
    shards = [
        Shard(shard.name, shard.full_shape, shard.slices, shard.target.cuda())
        for shard in whole(tensors, torch.bfloat16)
    ]
    load(shards, folder)
    for shard in shards:
        assert torch.equal(shard.target.cpu(), tensors[shard.name].bfloat16())


def anonymous_bytes() -> int:
    """Memory of this process that is not backed by a file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.skipif(not psutil.LINUX, reason="reads /proc")
@pytest.mark.parametrize("across", [0, 1])
def test_takes_no_memory_beyond_one_slice(tmp_path: Path, across: int) -> None:
    mib = 1 << 20
    save_file({"model.w": torch.zeros(8192, 4096, dtype=torch.bfloat16)}, tmp_path / SINGLE)
    part = slice(0, 1024) if across == 0 else slice(0, 512)
    slices = (part, slice(None)) if across == 0 else (slice(None), part)
    target = torch.ones(1024, 4096) if across == 0 else torch.ones(8192, 512)
    shards = [Shard("model.w", (8192, 4096), slices, target)]
    peak = before = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    load(shards, tmp_path)
    peak = max(peak, anonymous_bytes())
    done.set()
    watcher.join()
    assert not target.any()
    assert peak - before < 12 * mib, "the slice has 8 MiB, the tensor 64 MiB"


def test_missing_and_surplus_tensors_are_named(saved: tuple[Path, Tensors]) -> None:
    folder, tensors = saved
    extra = {"lm_head.weight": torch.zeros(64, 16), "score.weight": torch.zeros(2, 16)}
    with pytest.raises(
        CheckpointError, match=r"lacks 2 tensors .*asks for: lm_head\.weight, score\.weight$"
    ):
        load(whole(tensors | extra), folder)
    with pytest.raises(CheckpointError, match=r"lacks 30 tensors .*: a\.0, .* and 25 more$"):
        load(whole(tensors | {f"a.{i}": torch.zeros(1) for i in range(30)}), folder)
    fewer = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match=r"holds 1 tensors .* no place .*model\.norm\.weight"):
        load(whole(fewer), folder)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_ignorable_tensors_are_let_pass(tmp_path: Path, prefix: str) -> None:
    stray = "layers.0.self_attn.rotary_emb.inv_freq"
    stored = {f"{prefix}norm.weight": torch.ones(4), f"{prefix}{stray}": torch.ones(2)}
    save_file(stored | {"lm_head.weight": torch.ones(4, 4)}, tmp_path / SINGLE)
    shards = whole({"model.norm.weight": torch.ones(4)})
    load(shards, tmp_path, {f"model.{stray}", "lm_head.weight", "not.there"})
    assert torch.equal(shards[0].target, torch.ones(4))
    with pytest.raises(CheckpointError, match=r"no place for: lm_head\.weight"):
        load(shards, tmp_path, {f"model.{stray}"})


def test_wrong_shapes_are_named_and_nothing_is_copied(saved: tuple[Path, Tensors]) -> None:
    folder, tensors = saved
    shards = whole(tensors | {"model.norm.weight": torch.zeros(17)})
    with pytest.raises(
        CheckpointError, match=r"norm\.weight has shape \(16,\), config\.json asks for \(17,\)"
    ):
        load(shards, folder)
    assert all(shard.target.isnan().all() for shard in shards)


@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.bool, "BOOL"),
    ],
)
def test_other_dtypes_are_refused(tmp_path: Path, dtype: torch.dtype, told: str) -> None:
    save_file({"model.w": torch.zeros(4).to(dtype)}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=f"model.w is {told}, not one of BF16, F16, F32"):
        load(whole({"model.w": torch.zeros(4)}), tmp_path)


def test_float16_is_read(tmp_path: Path) -> None:
    values = torch.randn(4).half()
    save_file({"model.w": values}, tmp_path / SINGLE)
    shards = whole({"model.w": values})
    load(shards, tmp_path)
    assert torch.equal(shards[0].target, values.float())
