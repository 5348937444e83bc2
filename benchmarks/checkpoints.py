"""Random-weight Gemma 2 checkpoints in Hugging Face layout.

    python benchmarks/checkpoints.py --shape mini [--labels 4] [--out DIR]

Each has the files that a real one has, so every engine loads it by its normal path; nothing is
downloaded. Projections are drawn from N(0, 1 / fan_in), so that attention is neither uniform nor
one-hot, and norm weights from N(0, 0.1^2) around the implicit 1 of Gemma's (1 + w). The embedding
is small (RMS 0.25 once scaled) beside what the layers add, and the final norm large (12): the tied
head then does not just repeat the input, greedy answers vary with the context, and logits reach
the range where the soft cap bends. Each tensor is seeded by its name: the same however the file is
sharded.
"""

import argparse
import json
import sysconfig
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)

CHECKPOINTS = Path("out/benchmarks/checkpoints")
SHARD_SIZE = "2GB"
TOKENIZER_SIZE = 32768
CORPUS_CHARACTERS = 4_000_000  # at most; a small vocabulary needs less
CHARACTERS_PER_TOKEN = 256


class Shape(NamedTuple):
    """The sizes of a Gemma 2."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    window: int
    query_scalar: int


SHAPES = {
    "tiny": Shape(128, 4, 4, 2, 32, 2816, 4096, 64, 32),  # 5 million parameters
    "mini": Shape(768, 12, 4, 2, 256, 4608, 32768, 512, 256),  # 181 million
    "2b": Shape(2304, 26, 8, 4, 256, 9216, 256000, 4096, 256),
    "9b": Shape(3584, 42, 16, 8, 256, 14336, 256000, 4096, 256),
    "27b": Shape(4608, 46, 32, 16, 128, 36864, 256000, 4096, 144),
}


def ensure(name: str, *, labels: int = 0, folder: Path | None = None) -> Path:
    """Return the folder of a checkpoint, made now if it is not there.

    Args:
        name: of the shape.
        labels: of a sequence classification head; 0 is a causal language model.
        folder: where it goes; None is a folder of its own under CHECKPOINTS.
    """
    folder = folder or CHECKPOINTS / (f"{name}-classifier-{labels}" if labels else name)
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete: an interrupted run leaves nothing that looks like a checkpoint.
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        write(SHAPES[name], partial, labels=labels)
        partial.rename(folder)
    return folder


def write(shape: Shape, folder: Path, *, labels: int = 0, seed: int = 0) -> None:
    """Write every file of a checkpoint to an existing folder."""
    generation = {"bos_token_id": 2, "eos_token_id": [1, 107], "pad_token_id": 0}
    _write_json(folder / "config.json", hf_config(shape, labels))
    _write_json(folder / "generation_config.json", generation)
    _write_tokenizer(folder, shape.vocab)
    _write_weights(folder, dict(tensor_shapes(shape, labels)), seed)


def hf_config(shape: Shape, labels: int) -> dict[str, Any]:
    """Return config.json."""
    head = {
        "architectures": ["Gemma2ForSequenceClassification"],
        "id2label": {str(i): f"label {i}" for i in range(labels)},
        "label2id": {f"label {i}": i for i in range(labels)},
    }
    return {
        **(head if labels else {"architectures": ["Gemma2ForCausalLM"]}),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": shape.head_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 8192,
        "model_type": "gemma2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": 0,
        "query_pre_attn_scalar": shape.query_scalar,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": shape.window,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def tensor_shapes(shape: Shape, labels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor, in file order."""
    h, i = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, h)
    for n in range(shape.layers):
        prefix = f"model.layers.{n}."
        yield prefix + "input_layernorm.weight", (h,)
        yield prefix + "self_attn.q_proj.weight", (q, h)
        yield prefix + "self_attn.k_proj.weight", (kv, h)
        yield prefix + "self_attn.v_proj.weight", (kv, h)
        yield prefix + "self_attn.o_proj.weight", (h, q)
        yield prefix + "post_attention_layernorm.weight", (h,)
        yield prefix + "pre_feedforward_layernorm.weight", (h,)
        yield prefix + "mlp.gate_proj.weight", (i, h)
        yield prefix + "mlp.up_proj.weight", (i, h)
        yield prefix + "mlp.down_proj.weight", (h, i)
        yield prefix + "post_feedforward_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    if labels:
        yield "score.weight", (labels, h)


def make_tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Draw one tensor in bfloat16."""
    generator = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
    mean = 11.0 if name == "model.norm.weight" else 0.0
    std = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
    if name == "model.embed_tokens.weight":
        std *= 0.25
    return torch.empty(shape).normal_(mean, std, generator=generator).to(torch.bfloat16)


def _write_weights(folder: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    """Write the tensors, one file of them in memory at a time."""
    sizes = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in shapes.items()
    }
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD_SIZE)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: make_tensor(name, shapes[name], seed) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_tokenizer(folder: Path, vocab: int) -> None:
    """Train a BPE with byte fallback, laid out as Gemma 2's, on the standard library's source."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
    control += [f"<unused{i}>" for i in range(99)]
    control += ["<start_of_turn>", "<end_of_turn>"]  # 106, 107
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    bpe = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab, TOKENIZER_SIZE), special_tokens=control + spelled, show_progress=False
    )
    bpe.train_from_iterator((f"▁{word}" for word in _words(CHARACTERS_PER_TOKEN * vocab)), trainer)
    # The trainer made the bytes special tokens too, which decoding would leave out.
    tokenizer = Tokenizer.from_str(json.dumps({**json.loads(bpe.to_str()), "added_tokens": []}))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in control]
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "GemmaTokenizer", "model_max_length": 8192, **names},
    )


def _words(characters: int) -> Iterator[str]:
    left = min(characters, CORPUS_CHARACTERS)
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")[:left]
        left -= len(text)
        yield from text.split()


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def main() -> None:
    """Make one checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--labels", type=int, default=0, help="give it a classification head")
    parser.add_argument("--out", type=Path, help=f"default: a folder under {CHECKPOINTS}")
    args = parser.parse_args()
    print(ensure(args.shape, labels=args.labels, folder=args.out))


if __name__ == "__main__":
    main()
