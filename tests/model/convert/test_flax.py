"""Flax's layouts, written by the test with tensorstore as orbax does, and what becomes of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.convert import Wishes, convert, flax_files
from model.convert.original import open_original
from model.errors import CheckpointError, ParameterError
from tests.model.helpers import oracle

from .originals import flat, flax, loaded, logits, nested, stacked

ts = pytest.importorskip("tensorstore")

Arrays = dict[tuple[str, ...], Tensor]
LAYOUTS: dict[str, Callable[[Any], Arrays]] = {"flat": flat, "nested": nested, "stacked": stacked}


def save(arrays: Arrays, folder: Path, *, driver: str = "zarr", ocdbt: bool = True) -> Path:
    """Write each array where orbax does: under its keys, joined by dots."""
    folder.mkdir()
    base: dict[str, Any] = {"driver": "file", "path": f"{folder}/"}
    for keys, tensor in arrays.items():
        path = ".".join(keys) + "/"
        store = {"driver": "ocdbt", "base": base, "path": path}
        if not ocdbt:
            store = {"driver": "file", "path": f"{folder}/{path}"}
        values = tensor.float().numpy().astype(_dtype(tensor))
        array = ts.open(
            {"driver": driver, "kvstore": store},
            create=True,
            dtype=values.dtype,
            shape=values.shape,
        ).result()
        array.write(values).result()
    (folder / "_METADATA").write_text(json.dumps({"use_zarr3": driver == "zarr3"}))
    return folder


def _dtype(tensor: Tensor) -> Any:
    return ts.dtype(str(tensor.dtype).removeprefix("torch.")).numpy_dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("swapped_gating", [False, True])
def test_logits_are_bitwise_those_of_the_original(
    layout: str, swapped_gating: bool, reference: Any, config: Path, tmp_path: Path
) -> None:
    arrays = LAYOUTS[layout](flax(reference, swapped_gating=swapped_gating))
    source = save(arrays, tmp_path / "source")
    done = convert(str(source), tmp_path / "new", Wishes(config=config))
    assert (done.layout, done.dtype) == ("flax", "float32")
    assert torch.equal(logits(loaded(tmp_path / "new")), logits(reference))


@pytest.mark.parametrize(
    ("driver", "ocdbt"), [("zarr", True), ("zarr", False), ("zarr3", True), ("zarr3", False)]
)
def test_stores(driver: str, ocdbt: bool, rounded: Any, config: Path, tmp_path: Path) -> None:
    source = save(flat(flax(rounded)), tmp_path / "source", driver=driver, ocdbt=ocdbt)
    convert(str(source), tmp_path / "new", Wishes(config=config))
    model = loaded(tmp_path / "new")
    assert model.dtype is torch.bfloat16
    assert torch.equal(logits(model), logits(rounded))


def test_the_layout_of_the_test_is_that_of_the_einsums(reference: Any) -> None:
    """Flax's own einsums over the test's tensors give what transformers' linears do."""
    params = flax(reference)["layer_1"]
    layer = reference.model.layers[1]
    x = torch.randn(2, 3, 48)
    with torch.no_grad():
        q = torch.einsum("BTD,NDH->BTNH", x, params["attn"]["q_einsum"]["w"]).flatten(2)
        k, v = torch.einsum("BSD,CKDH->CBSKH", x, params["attn"]["kv_einsum"]["w"]).flatten(3)
        out = torch.einsum(
            "BTNH,NHD->BTD", q.unflatten(2, (4, 20)), params["attn"]["attn_vec_einsum"]["w"]
        )
        gate, up = torch.einsum("BTD,NDF->NBTF", x, params["mlp"]["gating_einsum"])
        down = torch.einsum("BTF,FD->BTD", gate, params["mlp"]["linear"])
        for got, want in [
            (q, layer.self_attn.q_proj(x)),
            (k, layer.self_attn.k_proj(x)),
            (v, layer.self_attn.v_proj(x)),
            (out, layer.self_attn.o_proj(q)),
            (gate, layer.mlp.gate_proj(x)),
            (up, layer.mlp.up_proj(x)),
            (down, layer.mlp.down_proj(gate)),
        ]:
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("spare", [0, 128])
def test_spare_rows_are_left_out(spare: int, reference: Any, config: Path, tmp_path: Path) -> None:
    source = save(flat(flax(reference, spare=spare)), tmp_path / "source")
    convert(str(source), tmp_path / "new", Wishes(config=config))
    embedding = load_file(tmp_path / "new" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(embedding, reference.model.embed_tokens.weight)


class TestWayBack:
    def test_is_what_flax_reads(
        self, reference: Any, saved_reference: Path, tmp_path: Path
    ) -> None:
        convert(str(saved_reference), tmp_path / "there", Wishes(to="flax"))
        expected = flat(flax(reference))
        embedding = expected["transformer/embedder", "input_embedding"]
        embedding[-128:] = 0
        base = {"driver": "file", "path": f"{tmp_path}/there/"}
        for keys, tensor in expected.items():
            store = {"driver": "ocdbt", "base": base, "path": ".".join(keys) + "/"}
            values = ts.open({"driver": "zarr", "kvstore": store}).result().read().result()
            assert np.array_equal(values, tensor.numpy()), keys
        told = json.loads((tmp_path / "there" / "_METADATA").read_text())["tree_metadata"]
        assert told.keys() == {str(keys) for keys in expected}

    @pytest.mark.parametrize("dtype", ["rounded", "reference"])
    def test_there_and_back_is_bitwise_the_same(
        self, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        request.getfixturevalue(dtype).save_pretrained(tmp_path / "first")
        convert(str(tmp_path / "first"), tmp_path / "there", Wishes(to="flax"))
        convert(str(tmp_path / "there"), tmp_path / "torch", Wishes(to="gemma-pytorch"))
        convert(str(tmp_path / "torch"), tmp_path / "second")
        first = load_file(tmp_path / "first" / "model.safetensors")
        second = load_file(tmp_path / "second" / "model.safetensors")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_as_many_keys_as_queries(self, tmp_path: Path) -> None:
        model = oracle(num_key_value_heads=4)
        model.save_pretrained(tmp_path / "first")
        convert(str(tmp_path / "first"), tmp_path / "there", Wishes(to="flax"))
        base = {"driver": "file", "path": f"{tmp_path}/there/"}
        path = "transformer/layer_0/attn/qkv_einsum.w/"
        store = {"driver": "ocdbt", "base": base, "path": path}
        qkv = torch.tensor(ts.open({"driver": "zarr", "kvstore": store}).result().read().result())
        x = torch.randn(1, 3, 48)
        got = torch.einsum("BTD,SNDH->SBTNH", x, qkv).flatten(3)
        attention = model.model.layers[0].self_attn
        for part, linear in zip(
            got, (attention.q_proj, attention.k_proj, attention.v_proj), strict=True
        ):
            torch.testing.assert_close(part, linear(x).detach())
        convert(str(tmp_path / "there"), tmp_path / "second")
        assert torch.equal(logits(loaded(tmp_path / "second")), logits(model))

    def test_orbax_restores_it(self, rounded: Any, tmp_path: Path) -> None:
        ocp = pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
        rounded.save_pretrained(tmp_path / "first")
        convert(str(tmp_path / "first"), tmp_path / "there", Wishes(to="flax"))
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.restore(tmp_path / "there")
        expected = flat(flax(rounded))
        assert sum(len(values) for values in tree.values()) == len(expected)
        for (name, leaf), tensor in expected.items():
            values = np.asarray(tree[name][leaf]).astype(np.float32)
            rows = slice(None, 103 if leaf == "input_embedding" else None)
            assert np.array_equal(values[rows], tensor.float().numpy()[rows]), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_orbax_writes(layout: str, rounded: Any, config: Path, tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    tree: dict[str, Any] = {}
    for keys, tensor in LAYOUTS[layout](flax(rounded)).items():
        place = tree
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = tensor.float().numpy().astype(_dtype(tensor))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "source", tree)
        checkpointer.wait_until_finished()
    convert(str(tmp_path / "source"), tmp_path / "new", Wishes(config=config))
    assert torch.equal(logits(loaded(tmp_path / "new")), logits(rounded))


@pytest.mark.parametrize(
    ("size", "dimensions"),
    [
        ("2B", (26, 2304, 9216, 8, 4, 256)),
        ("9B", (42, 3584, 14336, 16, 8, 256)),
        ("27B", (46, 4608, 36864, 32, 16, 128)),
    ],
)
def test_sizes_are_told_by_shapes(size: str, dimensions: tuple[int, ...], tmp_path: Path) -> None:
    """Arrays without a value in them, which tensorstore keeps no chunks of."""
    layers, hidden, inner, heads, key_heads, head_dim = dimensions
    shapes = {"embedder.input_embedding": (256_128, hidden), "final_norm.scale": (hidden,)}
    for i in range(layers):
        shapes |= {
            f"layer_{i}.{name}": shape
            for name, shape in {
                "attn.q_einsum.w": (heads, hidden, head_dim),
                "attn.kv_einsum.w": (2, key_heads, hidden, head_dim),
                "attn.attn_vec_einsum.w": (heads, head_dim, hidden),
                "mlp.gating_einsum": (2, hidden, inner) if size == "2B" else (2, inner, hidden),
                "mlp.linear": (inner, hidden),
                "pre_attention_norm.scale": (hidden,),
                "post_attention_norm.scale": (hidden,),
                "pre_ffw_norm.scale": (hidden,),
                "post_ffw_norm.scale": (hidden,),
            }.items()
        }
    base = {"driver": "file", "path": f"{tmp_path}/source/"}
    for name, shape in shapes.items():
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": store}
        ts.open(spec, create=True, dtype=ts.bfloat16, shape=shape).result()
    original = open_original(str(tmp_path / "source"), None)
    assert original.size is not None
    assert original.size.name == size
    assert original.config.vocab_size == 256_000
    assert original.weights.metas["model.embed_tokens.weight"].shape == (256_000, hidden)
    assert original.weights.metas["model.layers.0.mlp.up_proj.weight"].shape == (inner, hidden)


class TestRefusals:
    def refused(self, arrays: Arrays, config: Path, tmp_path: Path) -> str:
        source = save(arrays, tmp_path / "source")
        with pytest.raises(CheckpointError) as caught:
            convert(str(source), tmp_path / "new", Wishes(config=config))
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_missing_and_a_surplus_parameter(
        self, reference: Any, config: Path, tmp_path: Path
    ) -> None:
        arrays = flat(flax(reference))
        arrays["transformer/layer_9/attn/q_einsum", "w"] = arrays.pop(
            ("transformer/layer_2/attn/q_einsum", "w")
        )
        message = self.refused(arrays, config, tmp_path)
        assert "lacks 1 tensors" in message
        assert "layer_2.attn.q_einsum" in message

    def test_a_shape_and_a_second_name(self, reference: Any, config: Path, tmp_path: Path) -> None:
        arrays = flat(flax(reference))
        key = ("transformer/layer_2/attn/q_einsum", "w")
        arrays[key] = arrays[key].mT
        message = self.refused(arrays, config, tmp_path)
        assert "layer_2.attn.q_einsum has shape (4, 20, 48), not (4, 48, 20)" in message
        shutil.rmtree(tmp_path / "source")
        arrays = nested(flax(reference)) | flat(flax(reference))
        assert "more than one parameter" in self.refused(arrays, config, tmp_path)

    def test_a_lost_chunk(self, saved_reference: Path, tmp_path: Path) -> None:
        """Which tensorstore would read as zeros."""
        convert(str(saved_reference), tmp_path / "there", Wishes(to="flax"))
        base = {"driver": "file", "path": f"{tmp_path}/there/"}
        store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
        store.delete_range(
            ts.KvStore.KeyRange(
                "transformer/layer_1/mlp/linear.w/0", "transformer/layer_1/mlp/linear.w/1"
            )
        ).result()
        with pytest.raises(CheckpointError, match="can't be read"):
            convert(str(tmp_path / "there"), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_damaged_store(self, saved_reference: Path, tmp_path: Path) -> None:
        convert(str(saved_reference), tmp_path / "there", Wishes(to="flax"))
        for path in (tmp_path / "there").rglob("*"):
            if path.is_file() and path.suffix != ".json" and path.name != "_METADATA":
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="can't be read") as caught:
            convert(str(tmp_path / "there"), tmp_path / "new")
        assert "\n" not in str(caught.value)

    def test_without_tensorstore(
        self, saved_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flax_files, "find_spec", lambda _: None)
        with pytest.raises(ParameterError, match=r"pip install 'gemmaray\[flax\]'"):
            convert(str(saved_reference), tmp_path / "new", Wishes(to="flax"))
        assert not (tmp_path / "new").exists()
