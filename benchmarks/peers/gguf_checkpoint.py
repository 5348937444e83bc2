"""Write a Gemma 2 checkpoint as GGUF, for llama.cpp. Runs where the package gguf is installed.

    python benchmarks/peers/gguf_checkpoint.py CHECKPOINT OUT.gguf

llama.cpp's own converter wants a SentencePiece model, which random-weight checkpoints lack.
Matrices stay bfloat16; norm weights become float32 with Gemma's 1 added, as llama.cpp expects. The
vocabulary is a placeholder of the right size with the right special ids, since prompts are given as
token ids.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OTHER_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
FIRST_BYTE_ID = 108


def gguf_name(name: str) -> str:
    """Return what llama.cpp calls a tensor of the checkpoint."""
    if name in OTHER_TENSORS:
        return OTHER_TENSORS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[rest.removesuffix('.weight')]}.weight"


def tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the bfloat16 bits (uint16, memory-mapped) of every tensor."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                offset = 8 + size + entry["data_offsets"][0]
                yield name, np.memmap(path, np.uint16, "r", offset, tuple(entry["shape"]))


def add_config(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write the sizes and numbers of config.json."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)


def add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Write placeholders: Gemma's special ids and bytes, and a name for every other id."""
    names = [f"t{index}" for index in range(size)]
    types = [TokenType.NORMAL] * size
    names[:4] = "<pad>", "<eos>", "<bos>", "<unk>"
    types[:4] = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN]
    for byte in range(256):
        names[FIRST_BYTE_ID + byte] = f"<0x{byte:02X}>"
        types[FIRST_BYTE_ID + byte] = TokenType.BYTE
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_scores([-float(index) for index in range(size)])
    writer.add_token_types(types)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)  # noqa: FBT003 - gguf's own signature


def main() -> None:
    """Convert one checkpoint."""
    checkpoint, out = map(Path, sys.argv[1:])
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(out, "gemma2")
    writer.add_name(checkpoint.name)
    add_config(writer, config)
    add_vocabulary(writer, config["vocab_size"])
    for name, bits in tensors(checkpoint):
        if bits.ndim == 1:
            weights = (bits.astype(np.uint32) << 16).view(np.float32) + np.float32(1)
            writer.add_tensor(gguf_name(name), weights)
        else:
            raw = bits.view(np.uint8)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
