"""Checkpoints that contradict themselves, are cut off, or are none: refused, by name."""

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import load
from model.errors import CheckpointError
from model.weight_files import INDEX, SINGLE

from .checkpoints import Tensors, whole


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
        (["_METADATA", "manifest.ocdbt"], "a Flax checkpoint; `gemmaray convert`"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter, not a model; give"),
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
    with pytest.raises(CheckpointError, match="refused; `gemmaray convert` brings"):
        load([], tmp_path)
    (tmp_path / SINGLE).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        load([], tmp_path)
    assert not (tmp_path / "sprung").exists()
