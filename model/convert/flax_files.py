"""Flax checkpoints as orbax lays them out: one zarr array for each parameter.

The arrays lie in an OCDBT key-value store (`manifest.ocdbt`), in older checkpoints in folders.
tensorstore, which orbax stands on, reads and writes both. An array is called by the keys that lead
to the parameter, joined by dots. Three layouts occur, and all are told here under the names of the
nested one without `w`, as in `layer_0.attn.q_einsum`:

    flat     ("transformer/layer_0/attn/q_einsum", "w"), as Google published Gemma 2
    nested   ("layer_0", "attn", "q_einsum", "w"), as flax.linen has parameters
    stacked  ("transformer/stacked_layers/attention_type_0/attn/q_einsum", "w"): every second layer
             of Gemma 2 in one tensor, those with a window as type 0

https://github.com/google-deepmind/gemma/blob/main/gemma/gm/ckpts/_compat.py
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config_file import read_json_object
from model.errors import CheckpointError, ParameterError

from .parts import Index, Meta

MANIFEST = "manifest.ocdbt"
METADATA = "_METADATA"

# The file that makes a folder an array, and the driver that reads it.
_DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}
_STACKED = re.compile(r"stacked_layers\.attention_type_(\d+)\.(.+)")
_WITHOUT_W = ("scale", "input_embedding")


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a parameter is: an array, or its `row` of a stacked one."""

    array: Any
    row: int | None

    def meta(self) -> Meta:
        shape = tuple(self.array.shape)
        dtype = getattr(torch, self.array.dtype.name, self.array.dtype.name)
        return Meta(shape if self.row is None else shape[1:], dtype)


class FlaxFiles:
    """The parameters of a Flax checkpoint in a folder.

    Attributes:
        place: the folder.
        metas: by names like `layer_0.attn.q_einsum`.

    Raises:
        ParameterError: tensorstore is not installed.
        CheckpointError: the folder is damaged, or two parameters have one name.
    """

    def __init__(self, folder: Path) -> None:
        self._tensorstore = _tensorstore()
        self.place = str(folder)
        self._folder = folder
        self._entries = dict(self._parameters())
        self.metas = {name: entry.meta() for name, entry in self._entries.items()}

    def read(self, name: str, index: Index) -> Tensor:
        """Read a part of a tensor, see `Stored`; nothing else of it is read."""
        entry = self._entries[name]
        whole = index if entry.row is None else (entry.row, *index)
        part = entry.array[whole] if whole else entry.array
        try:
            return _to_torch(part.read().result())
        except ValueError as error:
            raise self._damaged(error) from None

    def _parameters(self) -> Iterator[tuple[str, _Entry]]:
        arrays = self._arrays()
        kinds = {int(m[1]) for m in map(_STACKED.fullmatch, arrays) if m}
        seen: set[str] = set()
        for name, array in arrays.items():
            for told, entry in _entries(name, array, len(kinds)):
                if told in seen:
                    raise self._doubled(told)
                seen.add(told)
                yield told, entry

    def _arrays(self) -> dict[str, Any]:
        """Open every array, none of whose values are read by that."""
        store, complete = _store(self._folder), _stores_all_chunks(self._folder)
        arrays: dict[str, Any] = {}
        try:
            keys = self._tensorstore.KvStore.open(store).result().list().result()
            for key in keys:
                name, _, file = key.decode().rpartition("/")
                if (driver := _DRIVERS.get(file)) is None or not name:
                    continue
                place = {**store, "path": f"{store['path']}{name}/"}
                spec: dict[str, Any] = {"driver": driver, "kvstore": place}
                # Otherwise a chunk that was lost reads as zeros.
                spec |= {"fill_missing_data_reads": False} if complete else {}
                if (told := _told(name)) in arrays:
                    raise self._doubled(told)
                arrays[told] = self._tensorstore.open(spec, open=True, read=True).result()
        except (ValueError, UnicodeDecodeError) as error:
            raise self._damaged(error) from None
        return arrays

    def _doubled(self, name: str) -> CheckpointError:
        return CheckpointError(f"{self.place} has more than one parameter {name}")

    def _damaged(self, error: Exception) -> CheckpointError:
        told = (str(error) or type(error).__name__).splitlines()[0]
        return CheckpointError(f"{self.place} can't be read: {told}")


def is_flax(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint of orbax."""
    return (folder / MANIFEST).is_file() or (folder / METADATA).is_file()


def save_flax(folder: Path, metas: Mapping[str, Meta], assemble: Callable[[str], Tensor]) -> None:
    """Write parameters in the flat layout, as orbax restores it, a tensor at a time.

    Raises:
        ParameterError: tensorstore is not installed.
        CheckpointError: they can't be written.
    """
    tensorstore = _tensorstore()
    paths = {name: _flat_path(name) for name in metas}
    for name, meta in metas.items():
        values = assemble(name)
        spec = {
            "driver": "zarr",
            "kvstore": _ocdbt(folder, ".".join(paths[name]) + "/"),
            "metadata": {"compressor": {"id": "zstd"}},
            "store_data_equal_to_fill_value": True,
        }
        dtype = tensorstore.dtype(str(meta.dtype).removeprefix("torch."))
        layout = tensorstore.ChunkLayout(chunk_shape=meta.shape)
        try:
            array = tensorstore.open(
                spec, create=True, dtype=dtype, shape=meta.shape, chunk_layout=layout
            ).result()
            array.write(_to_numpy(values, dtype.numpy_dtype)).result()
        except ValueError as error:
            raise CheckpointError(f"{folder} can't be written: {error}") from None
    text = json.dumps(_metadata(list(paths.values())))
    (folder / METADATA).write_text(text, encoding="utf-8")


def _tensorstore() -> Any:
    if find_spec("tensorstore") is None:
        raise ParameterError(
            "Flax checkpoints are read and written with tensorstore, which is not installed: "
            "pip install 'gemmaray[flax]'"
        )
    return import_module("tensorstore")


def _store(folder: Path) -> dict[str, Any]:
    if (folder / MANIFEST).is_file():
        return _ocdbt(folder, "")
    return {"driver": "file", "path": f"{folder.resolve()}/"}


def _ocdbt(folder: Path, path: str) -> dict[str, Any]:
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    return {"driver": "ocdbt", "base": base, "path": path}


def _stores_all_chunks(folder: Path) -> bool:
    """Whether chunks of zeros were stored too, so that one that is missing was lost."""
    path = folder / METADATA
    values = read_json_object(path) if path.is_file() else {}
    return values.get("store_array_data_equal_to_fill_value") is True


def _told(name: str) -> str:
    """One name for a parameter, whatever its layout calls it."""
    dotted = name.replace("/", ".").removeprefix("params.").removeprefix("transformer.")
    return dotted.removesuffix(".w")


def _entries(name: str, array: Any, kinds: int) -> Iterator[tuple[str, _Entry]]:
    """Give what an array holds: a parameter, or every `kinds`-th layer's."""
    stacked = _STACKED.fullmatch(name)
    if stacked is None:
        yield name, _Entry(array, None)
        return
    for row in range(array.shape[0] if array.ndim else 0):
        yield f"layer_{row * kinds + int(stacked[1])}.{stacked[2]}", _Entry(array, row)


def _flat_path(name: str) -> tuple[str, str]:
    stem, _, leaf = name.rpartition(".")
    if leaf not in _WITHOUT_W:
        stem, leaf = name, "w"
    return "transformer/" + stem.replace(".", "/"), leaf


def _metadata(paths: list[tuple[str, str]]) -> dict[str, Any]:
    """What orbax has to know of the tree before it restores it.

    https://github.com/google/orbax/blob/main/checkpoint/orbax/checkpoint/_src/metadata/tree.py
    """
    dict_key = 2
    return {
        "tree_metadata": {
            str(path): {
                "key_metadata": [{"key": key, "key_type": dict_key} for key in path],
                "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
            }
            for path in paths
        },
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _to_torch(values: np.ndarray) -> Tensor:
    values = np.ascontiguousarray(values)
    if values.dtype.name == "bfloat16":  # which numpy itself does not have
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _to_numpy(values: Tensor, dtype: Any) -> np.ndarray:
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy().view(dtype)
    return values.numpy()
