import json
import pickle
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForTokenClassification,
    Gemma2Model,
    PreTrainedModel,
)

from model.checkpoint import Shard, load
from model.errors import CheckpointError
from model.weight_files import INDEX, SINGLE

Tensors = dict[str, torch.Tensor]


def build(kind: type[PreTrainedModel] = Gemma2ForCausalLM, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **changes,
    )
    return kind(config)


def whole(expected: Tensors, dtype: torch.dtype = torch.float32) -> list[Shard]:
    return [
        Shard(
            name,
            tuple(tensor.shape),
            (slice(None),) * tensor.ndim,
            torch.full(tensor.shape, torch.nan, dtype=dtype),
        )
        for name, tensor in expected.items()
    ]


def tied_weights(model: PreTrainedModel) -> Tensors:
    return {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A sharded checkpoint, and its tensors; not to be changed."""
    folder = tmp_path_factory.mktemp("sharded")
    model = build()
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder, tied_weights(model)


@pytest.fixture
def sharded(saved: tuple[Path, Tensors], tmp_path: Path) -> tuple[Path, Tensors]:
    """The same, to be changed."""
    return shutil.copytree(saved[0], tmp_path / "sharded"), saved[1]


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


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "..", 3, None]
)
def test_index_may_only_name_files_beside_it(sharded: tuple[Path, Tensors], name: Any) -> None:
    folder, tensors = sharded
    edit_index(folder, lambda weight_map: weight_map.update({"model.norm.weight": name}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is said to be in .*, which is"):
        load(whole(tensors), folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_broken_index(sharded: tuple[Path, Tensors], content: str) -> None:
    folder, tensors = sharded
    (folder / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load(whole(tensors), folder)


def test_index_that_names_a_missing_file(sharded: tuple[Path, Tensors]) -> None:
    folder, tensors = sharded
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {gone.name}, named in"):
        load(whole(tensors), folder)


def test_index_that_its_files_belie(sharded: tuple[Path, Tensors]) -> None:
    folder, tensors = sharded
    files = sorted(path.name for path in folder.glob("model-*.safetensors"))
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    other = next(name for name in files if name != index["model.norm.weight"])
    edit_index(folder, lambda weight_map: weight_map.update({"model.norm.weight": other}))
    with pytest.raises(CheckpointError, match=f"1 tensors are not .* model.norm.weight in {other}"):
        load(whole(tensors), folder)
    edit_index(folder, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"does not name model\.norm\.weight"):
        load(whole(tensors), folder)


def test_tensor_in_two_files(sharded: tuple[Path, Tensors]) -> None:
    folder, tensors = sharded
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: tensors[name]}, second)
    with pytest.raises(
        CheckpointError, match=f"{name} is both in .*{first.name} and in .*{second.name}"
    ):
        load(whole(tensors), folder)


def test_single_file_beside_an_index_of_others(sharded: tuple[Path, Tensors]) -> None:
    folder, tensors = sharded
    save_file(tensors, folder / SINGLE)
    with pytest.raises(CheckpointError, match=r"has both model\.safetensors and .*remove one"):
        load(whole(tensors), folder)
    edit_index(folder, lambda weight_map: weight_map.update(dict.fromkeys(weight_map, SINGLE)))
    load(whole(tensors), folder)


def test_links_are_followed(saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    folder, tensors = saved
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    shards = whole(tensors)
    load(shards, tmp_path)
    assert all(torch.equal(shard.target, tensors[shard.name]) for shard in shards)


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    save_file({"model.w": torch.ones(8, 8)}, path)
    content = path.read_bytes()
    for length in [0, 4, 8, 20, len(content) - 256, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors can't be read as safetensors"
        ):
            load(whole({"model.w": torch.ones(8, 8)}), tmp_path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4988025760\n"
    (tmp_path / SINGLE).write_text(pointer)
    with pytest.raises(CheckpointError, match=r"can't be read as safetensors .* Git LFS pointer"):
        load([], tmp_path)


def test_damaged_files_end_in_our_error_or_load(tmp_path: Path) -> None:
    """Bytes of the header are changed at random: nothing but CheckpointError may come out."""
    path = tmp_path / SINGLE
    save_file({"model.w": torch.ones(8, 8), "model.v": torch.ones(4)}, path)
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(header_end)] = draw.choice(b'09{}[]",:FIBU814 \x00\xff')
        path.write_bytes(damaged)
        try:
            load(whole({"model.w": torch.ones(8, 8), "model.v": torch.ones(4)}), tmp_path)
        except CheckpointError:
            refused += 1
    assert refused > 400


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["pytorch_model.bin"], r"pytorch_model\.bin but no .*pickled .*run code.*safetensors$"),
        (["pytorch_model.bin.index.json", "pytorch_model-1-of-1.bin"], "pickled"),
        (["model.ckpt"], "pickled"),
        (["consolidated.00.pth"], "pickled"),
        (["gemma-2-2b.gguf"], "GGUF is not read"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter, not a model; merge"),
        (["gemma.safetensors"], r"gemma\.safetensors but neither model\.safetensors nor"),
        (["README.md"], "holds no weights"),
        ([], "holds no weights"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, names: list[str], told: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=told):
        load([], tmp_path)


def test_pickles_are_never_opened(tmp_path: Path, saved: tuple[Path, Tensors]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="refused; convert it to safetensors"):
        load([], tmp_path)
    (tmp_path / SINGLE).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        load([], tmp_path)
    assert not (tmp_path / "sprung").exists()
