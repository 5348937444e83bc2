"""Originals that are incomplete, damaged or hostile: one line that says so, and nothing written."""

import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.convert import Wishes, convert
from model.errors import CheckpointError, ConfigError, TokenizerError

from .originals import Tensors, gemma_pytorch, quantized, save_ckpt, save_sharded

INDEX = "pytorch_model.bin.index.json"


class Evil:
    """A pickle of it runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def state(reference: Any) -> Tensors:
    return gemma_pytorch(reference)


def refused(source: Path, config: Path, tmp_path: Path) -> str:
    """The one line that it is refused with."""
    before = set(tmp_path.iterdir())
    with pytest.raises(CheckpointError) as caught:
        convert(str(source), tmp_path / "new", Wishes(config=config))
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message  # torch's advice is to switch the safety off
    assert set(tmp_path.iterdir()) == before
    return message


def changed(state: Tensors, change: Callable[[Tensors], Any]) -> Tensors:
    state = dict(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("model.norm.weight"), r"lacks 1 tensors .*model\.norm\.weight"),
        (
            lambda s: s.pop("model.layers.2.self_attn.qkv_proj.weight"),
            r"lacks 1 tensors .*layers\.2\.self_attn\.qkv_proj",
        ),
        (lambda s: s.update(extra=s["model.norm.weight"]), r"holds 1 tensors .* no place for: ex"),
        (
            lambda s: s.update({"model.layers.4.input_layernorm.weight": s["model.norm.weight"]}),
            r"no place for: model\.layers\.4\.input_layernorm",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.zeros(47)}),
            r"model\.norm\.weight has shape \(47,\), not \(48,\)",
        ),
        (
            lambda s: s.update({"embedder.weight": s["embedder.weight"].T}),
            r"embedder\.weight has shape \(48, 103\), not \(103, 48\)",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.zeros(48, dtype=torch.float64)}),
            r"model\.norm\.weight is float64, not bfloat16",
        ),
        (
            lambda s: s.update({"embedder.weight": torch.zeros(103, 48, dtype=torch.int8)}),
            r"embedder\.weight is int8, not bfloat16",
        ),
        (
            lambda s: s.update({"embedder.weight_scaler": torch.zeros(103)}),
            "no place for: embedder",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.zeros(48).to_sparse()}),
            "model.norm.weight has no values of its own",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.zeros(48, device="meta")}),
            "model.norm.weight has no values of its own",
        ),
        (
            lambda s: s.update({"model.norm.weight": [1.0]}),
            "'model.norm.weight' is a list, not a te",
        ),
    ],
)
def test_what_is_not_in_the_layout(
    change: Callable[[Tensors], Any], expected: str, state: Tensors, config: Path, tmp_path: Path
) -> None:
    source = save_ckpt(changed(state, change), tmp_path / "model.ckpt")
    assert re.search(expected, refused(source, config, tmp_path))


def test_a_scaler_of_another_length(state: Tensors, config: Path, tmp_path: Path) -> None:
    stored, _ = quantized(state)
    stored["embedder.weight_scaler"] = torch.ones(102)
    message = refused(save_ckpt(stored, tmp_path / "model.ckpt"), config, tmp_path)
    assert "no place for: embedder.weight_scaler" in message


def test_a_file_of_something_else(state: Tensors, config: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.ckpt"
    for content in (state, [1], {"model_state_dict": 3}, torch.zeros(3)):
        torch.save(content, source)
        assert "has no model_state_dict" in refused(source, config, tmp_path)
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, source)
    with pytest.raises(CheckpointError, match="no Gemma 2 in the layout"):
        convert(str(source), tmp_path / "new")


@pytest.mark.parametrize("place", ["file", "shard"])
def test_a_pickle_that_runs_code(place: str, state: Tensors, config: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    evil = {**state, "model.norm.weight": Evil(trace)}
    if place == "file":
        source = tmp_path / "model.ckpt"
        torch.save({"model_state_dict": evil}, source)
    else:
        source = save_sharded(state, tmp_path / "sharded")
        torch.save({"model.norm.weight": Evil(trace)}, source / "model-00002.bin")
    message = refused(source, config, tmp_path)
    assert re.search(r"asks for posix\.system when it is read, .*: refused", message)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle(protocol: int, config: Path, tmp_path: Path) -> None:
    source, trace = tmp_path / "model.ckpt", tmp_path / "it-ran"
    source.write_bytes(pickle.dumps({"model_state_dict": Evil(trace)}, protocol=protocol))
    refused(source, config, tmp_path)
    assert not trace.exists()


def test_the_form_before_zip(state: Tensors, config: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.ckpt"
    content = {"model_state_dict": state}
    torch.save(content, source, _use_new_zipfile_serialization=False)
    assert "before PyTorch 1.6" in refused(source, config, tmp_path)


def test_truncated_files(state: Tensors, config: Path, tmp_path: Path) -> None:
    source = save_ckpt(state, tmp_path / "model.ckpt")
    whole = source.read_bytes()
    for twentieth in range(20):
        source.write_bytes(whole[: len(whole) * twentieth // 20])
        assert "damaged" in refused(source, config, tmp_path)


def test_damaged_bytes_end_in_one_line(config: Path, tmp_path: Path) -> None:
    """Of a file that is names and places more than values."""
    source = save_ckpt({f"t{i}": torch.zeros(1) for i in range(30)}, tmp_path / "model.ckpt")
    whole, rng = source.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        source.write_bytes(damaged)
        refused(source, config, tmp_path)


class TestIndex:
    @pytest.fixture
    def sharded(self, state: Tensors, tmp_path: Path) -> Path:
        return save_sharded(state, tmp_path / "sharded")

    def edit(self, folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    @pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", "", "..", 3, None])
    def test_may_only_name_files_beside_it(
        self, name: Any, sharded: Path, config: Path, tmp_path: Path
    ) -> None:
        self.edit(sharded, lambda names: names.update({"model.norm.weight": name}))
        assert "which is no file beside it" in refused(sharded, config, tmp_path)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}'])
    def test_broken(self, content: str, sharded: Path, config: Path, tmp_path: Path) -> None:
        (sharded / INDEX).write_text(content)
        assert INDEX in refused(sharded, config, tmp_path)

    def test_names_a_missing_file(self, sharded: Path, config: Path, tmp_path: Path) -> None:
        (sharded / "model-00001.bin").unlink()
        assert f"lacks model-00001.bin, named in {INDEX}" in refused(sharded, config, tmp_path)

    def test_names_a_missing_tensor(self, sharded: Path, config: Path, tmp_path: Path) -> None:
        self.edit(sharded, lambda names: names.update(more="model-00001.bin"))
        assert f"lacks more, named in {INDEX}" in refused(sharded, config, tmp_path)

    def test_belies_its_files(self, sharded: Path, config: Path, tmp_path: Path) -> None:
        name = "model.norm.weight"
        index = json.loads((sharded / INDEX).read_text())["weight_map"]
        other = next(file for file in index.values() if file != index[name])
        self.edit(sharded, lambda names: names.update({name: other}))
        assert f"and in {other} by {INDEX}" in refused(sharded, config, tmp_path)
        self.edit(sharded, lambda names: names.pop(name))
        assert f"and nowhere by {INDEX}" in refused(sharded, config, tmp_path)


def test_several_files_and_no_index(state: Tensors, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.ckpt", "b.ckpt"):
        save_ckpt(state, folder / name)
    assert "holds a.ckpt, b.ckpt; name the file" in refused(folder, config, tmp_path)


def test_a_config_that_does_not_fit(state: Tensors, config: Path, tmp_path: Path) -> None:
    source = save_ckpt(state, tmp_path / "model.ckpt")
    values = json.loads(config.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(values | {"head_dim": 22}))
    assert "qkv_proj.weight has shape (160, 48), not (176, 48)" in refused(source, other, tmp_path)
    other.write_text(json.dumps(values | {"num_hidden_layers": 3, "layer_types": None}))
    assert "no place for: model.layers.3" in refused(source, other, tmp_path)
    other.write_text(json.dumps(values | {"tie_word_embeddings": False}))
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        convert(str(source), tmp_path / "new", Wishes(config=other))
    with pytest.raises(CheckpointError, match="is missing"):
        convert(str(source), tmp_path / "new", Wishes(config=tmp_path / "none.json"))


def test_a_tokenizer_that_is_none(state: Tensors, config: Path, tmp_path: Path) -> None:
    source = save_ckpt(state, tmp_path / "model.ckpt")
    (tmp_path / "tokenizer.model").write_bytes(b"no sentencepiece")
    before = set(tmp_path.iterdir())
    for tokenizer in (tmp_path / "nothing", config, tmp_path / "tokenizer.model"):
        with pytest.raises(TokenizerError):
            convert(str(source), tmp_path / "new", Wishes(config=config, tokenizer=tokenizer))
    assert set(tmp_path.iterdir()) == before
