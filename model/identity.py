"""A cheap digest by which a job knows that it still runs the same checkpoint."""

import hashlib
import json
from pathlib import Path

from .weight_files import INDEX, check_readable, weight_paths

_VERSION = b"gemmaray checkpoint 1"
_ADAPTER = b"gemmaray adapter 1"
_WINDOW = 4096


def identify(folder: Path) -> str:
    """Digest a checkpoint: 64 hex digits, the same wherever the same files lie.

    It covers config.json, generation_config.json and the index wholly and, of each safetensors
    file, the name, size, header, and the first, middle and last 4 KiB of every tensor. So it tells
    apart checkpoints that were trained differently, of which any tensor was replaced or merged with
    an adapter, and reads a few MiB of a checkpoint of any size. It does not see an edit that leaves
    those windows alone, such as a few rows of the embedding; the tokenizer is not part of it; and
    the same weights cut into other files have another digest.

    Args:
        folder: what `locate` returned.

    Raises:
        CheckpointError: a weight file is missing, truncated or not safetensors.
    """
    digest = hashlib.sha256(_VERSION)
    for name in ("config.json", "generation_config.json", INDEX):
        path = folder / name
        _add(digest, name.encode(), path.read_bytes() if path.exists() else b"")
    for path in weight_paths(folder):
        check_readable(path)
        _add(digest, path.name.encode(), str(path.stat().st_size).encode(), *_samples(path))
    return digest.hexdigest()


def identify_adapter(folder: Path) -> str:
    """Digest a LoRA adapter, all bytes of its two files: 64 hex digits.

    Args:
        folder: what `locate_adapter` returned.
    """
    digest = hashlib.sha256(_ADAPTER)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with (folder / name).open("rb") as file:
            _add(digest, name.encode(), hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", *pieces: bytes) -> None:
    """Add pieces so that no two lists of them run together to the same bytes."""
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)


def _samples(path: Path) -> list[bytes]:
    """Read the header of a safetensors file and three windows of each tensor.

    The layout is: 8 bytes of header length, little-endian; the header, JSON; the tensors, each at
    the `data_offsets` that the header gives it, counted from the header's end
    (https://huggingface.co/docs/safetensors).
    """
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        samples, data = [header], file.tell()
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        for name in sorted(tensors):
            start, end = tensors[name]["data_offsets"]
            last = max(start, end - _WINDOW)
            for at in sorted({start, (start + last) // 2, last}):
                file.seek(data + at)
                samples.append(file.read(min(_WINDOW, end - at)))
    return samples
