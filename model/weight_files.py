"""Which safetensors files of a folder make up a checkpoint, and which tensor lies in which."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from .config_file import read_json_object
from .errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_paths(folder: Path) -> list[Path]:
    """List the files that hold a checkpoint's weights: model.safetensors, or what an index names.

    Raises:
        CheckpointError: there are none, they are of a kind that is not read, the index is wrong, or
            a file that it names is missing.
    """
    return sorted({folder / name for name in _index(folder).values()} or {folder / SINGLE})


def read_weight_map(folder: Path) -> dict[str, Path]:
    """Say in which file each stored tensor lies; from the files themselves, held against the index.

    Raises:
        CheckpointError: as `weight_paths`; a file is truncated or no safetensors file; a tensor is
            in two files; index and files don't agree.
    """
    index = _index(folder)
    found: dict[str, Path] = {}
    for path in weight_paths(folder):
        for name in _tensor_names(path):
            if name in found:
                raise CheckpointError(f"{name} is both in {found[name]} and in {path}")
            found[name] = path
    if index:
        _check_index(index, found, folder)
    return found


def check_readable(path: Path) -> None:
    """Check that a file has a sound safetensors header and the size that it tells.

    Raises:
        CheckpointError: it has not.
    """
    _tensor_names(path)


def corrupt(path: Path, error: Exception) -> CheckpointError:
    """Build the error for a file that the safetensors library can't read."""
    return CheckpointError(
        f"{path} can't be read as safetensors ({error}): it is damaged, a download that broke off, "
        "or a Git LFS pointer; fetch it again"
    )


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise corrupt(path, error) from None


def _index(folder: Path) -> dict[str, str]:
    """Read the tensor name to file name map of a sharded checkpoint; empty for a single file."""
    path = folder / INDEX
    if not path.exists():
        if not (folder / SINGLE).exists():
            raise CheckpointError(_no_weights(folder))
        return {}
    index = read_json_object(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path} has no weight_map")
    for tensor, name in index.items():
        if not _is_plain_name(name):
            raise CheckpointError(
                f"{path}: {tensor} is said to be in {name!r}, which is not the name of a "
                ".safetensors file beside it"
            )
    names = set(index.values())
    if (folder / SINGLE).exists() and names != {SINGLE}:
        raise CheckpointError(
            f"{folder} has both {SINGLE} and {INDEX}, which names other files; remove one"
        )
    if absent := sorted(name for name in names if not (folder / name).is_file()):
        raise CheckpointError(f"{folder} lacks {some(absent)}, named in {INDEX}")
    return index


def _is_plain_name(name: object) -> bool:
    """Whether a file name from an index stays in its folder."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not set(name) & {"/", "\\", "\0"}
        and name == Path(name).name
    )


def _check_index(index: dict[str, str], found: dict[str, Path], folder: Path) -> None:
    stored = {name: path.name for name, path in found.items()}
    if wrong := sorted(name for name in index if index[name] != stored.get(name)):
        name = wrong[0]
        raise CheckpointError(
            f"{folder / INDEX}: {len(wrong)} tensors are not in the file it names for them, "
            f"such as {name} in {index[name]}"
        )
    if unnamed := sorted(stored.keys() - index.keys()):
        raise CheckpointError(f"{folder / INDEX} does not name {some(unnamed)}")


def _no_weights(folder: Path) -> str:
    """Say what a folder without weights holds instead, as far as we know."""
    if pickles := sorted(path.name for kind in _PICKLES for path in folder.glob(kind)):
        return (
            f"{folder} holds {some(pickles)} but no safetensors: pickled checkpoints can run code "
            "when they are read, so they are refused; `gemmaray convert` brings those of "
            "gemma_pytorch into safetensors"
        )
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        return f"{folder} holds {some(ggufs)}: GGUF is not read; use the safetensors original"
    if (folder / "manifest.ocdbt").exists():
        return f"{folder} holds a Flax checkpoint; `gemmaray convert` brings it into safetensors"
    if (folder / "adapter_config.json").exists():
        return f"{folder} holds an adapter, not a model; give its base model, and this as adapter"
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"{folder} holds {some(others)} but neither {SINGLE} nor {INDEX}"
    return f"{folder} holds no weights: neither {SINGLE} nor {INDEX}"


def some(names: list[str], limit: int = 5) -> str:
    """Write out the first few of many names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
