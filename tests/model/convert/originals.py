"""The original layouts, made of a model of transformers from what defines them.

gemma_pytorch: https://github.com/google/gemma_pytorch/blob/main/gemma/model.py
Flax: the shapes and einsums of
https://github.com/google-deepmind/gemma/blob/main/gemma/gm/nn/_modules.py
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2ForCausalLM

Tensors = dict[str, Tensor]
Tree = dict[str, Any]

SPARE_ROWS = 128
# More than the window of the model.
IDS = torch.tensor([[2, 5, 9, 40, 77, 101, 3, 8, 60, 12, 33, 90]])


def gemma_pytorch(model: Any) -> Tensors:
    """The state dict of gemma_pytorch's model with these weights."""
    state = {"embedder.weight": model.model.embed_tokens.weight.data}
    for i, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{i}"
        attention = layer.self_attn
        qkv = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        state[f"{prefix}.self_attn.qkv_proj.weight"] = torch.cat(qkv).data
        state[f"{prefix}.self_attn.o_proj.weight"] = attention.o_proj.weight.data
        for name in ("gate_proj", "up_proj", "down_proj"):
            state[f"{prefix}.mlp.{name}.weight"] = getattr(layer.mlp, name).weight.data
        for name, norm in norms(layer).items():
            state[f"{prefix}.{name}.weight"] = norm
    state["model.norm.weight"] = model.model.norm.weight.data
    config = model.config
    angles = torch.outer(
        torch.arange(2.0 * config.max_position_embeddings),
        10_000.0 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim),
    )
    state["freqs_cis"] = torch.polar(torch.ones_like(angles), angles)
    return state


def quantized(state: Tensors) -> tuple[Tensors, Tensors]:
    """The int8 form of a state dict, and the weights that it stands for."""
    stored, meant = {}, {}
    for name, tensor in state.items():
        if tensor.ndim < 2 or tensor.is_complex():
            stored[name] = meant[name] = tensor
            continue
        scaler = tensor.abs().amax(1) / 127
        stored[name] = (tensor / scaler[:, None]).round().to(torch.int8)
        stored[name.replace("weight", "weight_scaler")] = scaler
        meant[name] = stored[name] * scaler.unsqueeze(-1)  # as its Linear computes
    return stored, meant


def save_ckpt(state: Tensors, path: Path) -> Path:
    torch.save({"model_state_dict": state, "model_config": None}, path)
    return path


def save_sharded(state: Tensors, folder: Path, files: int = 3) -> Path:
    """A folder with an index; every file has a copy of the table of frequencies."""
    folder.mkdir()
    table = state["freqs_cis"]
    names = [name for name in state if name != "freqs_cis"]
    weight_map = {name: f"model-{i % files:05d}.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        held = {name: state[name].clone() for name in names if weight_map[name] == file}
        torch.save({**held, "freqs_cis": table}, folder / file)
    index = {"weight_map": weight_map | {"freqs_cis": "model-00000.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def flax(model: Any, *, swapped_gating: bool = False, spare: int = SPARE_ROWS) -> Tree:
    """The parameters of Flax's module, nested as `init` gives them."""
    config = model.config
    heads, key_heads, size = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    embedding = model.model.embed_tokens.weight.data
    rows = torch.full((spare, embedding.shape[1]), 0.5, dtype=embedding.dtype)
    params: Tree = {
        "embedder": {"input_embedding": torch.cat([embedding, rows])},
        "final_norm": {"scale": model.model.norm.weight.data},
    }
    renamed = {
        "input_layernorm": "pre_attention_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "pre_ffw_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    for i, layer in enumerate(model.model.layers):
        a, mlp = layer.self_attn, layer.mlp
        gating = torch.stack([mlp.gate_proj.weight.data, mlp.up_proj.weight.data])  # [2, F, D]
        keys, values = _heads(a.k_proj, key_heads, size), _heads(a.v_proj, key_heads, size)
        out = a.o_proj.weight.data  # [D, N·H]
        params[f"layer_{i}"] = {
            "attn": {
                "q_einsum": {"w": _heads(a.q_proj, heads, size)},
                "kv_einsum": {"w": torch.stack([keys, values])},
                "attn_vec_einsum": {"w": torch.stack(out.split(size, dim=1)).mT},
            },
            "mlp": {
                "gating_einsum": gating if swapped_gating else gating.mT,
                "linear": mlp.down_proj.weight.data.T,
            },
            **{renamed[name]: {"scale": norm} for name, norm in norms(layer).items()},
        }
    return params


def _heads(projection: Any, heads: int, size: int) -> Tensor:
    """[heads, D, size] for the einsum BTD,NDH->BTNH."""
    blocks = projection.weight.data.split(size)
    assert len(blocks) == heads
    return torch.stack([block.T for block in blocks])


def norms(layer: Any) -> Tensors:
    return {
        name: getattr(layer, name).weight.data
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        )
    }


def flat(params: Tree) -> dict[tuple[str, ...], Tensor]:
    """Parameters as Google published them: names with slashes, and `w` in the MLP as well."""
    found: dict[tuple[str, ...], Tensor] = {}
    for path, tensor in leaves(params):
        stem, leaf = (path, "w") if path[-2:-1] == ("mlp",) else (path[:-1], path[-1])
        found["/".join(("transformer", *stem)), leaf] = tensor
    return found


def nested(params: Tree) -> dict[tuple[str, ...], Tensor]:
    return dict(leaves(params))


def stacked(params: Tree) -> dict[tuple[str, ...], Tensor]:
    """The flat layout with the layers of each kind of attention in one tensor."""
    single, layers = {}, {}
    for (name, leaf), tensor in flat(params).items():
        head, _, rest = name.partition("/layer_")
        if not rest:
            single[name, leaf] = tensor
            continue
        number, _, suffix = rest.partition("/")
        key = (f"{head}/stacked_layers/attention_type_{int(number) % 2}/{suffix}", leaf)
        layers.setdefault(key, []).append(tensor)  # in the order of layers
    return single | {key: torch.stack(tensors) for key, tensors in layers.items()}


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tensor]]:
    if isinstance(tree, Tensor):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=IDS).logits
    return out


def loaded(folder: Path) -> Any:
    """What transformers makes of a folder."""
    return Gemma2ForCausalLM.from_pretrained(
        folder, dtype="auto", attn_implementation="eager", local_files_only=True
    ).eval()
