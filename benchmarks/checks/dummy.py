"""Models of the real shapes with random weights that are drawn where they are used.

Nothing is written but a config: 18 GB of weights would take longer to write and to read than all
that is measured with them.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from benchmarks.checkpoints import SHAPES, hf_config
from model.checkpoint import Shard
from model.engine import runner


@contextmanager
def dummy_checkpoint(shape: str, labels: int = 0) -> Iterator[Path]:
    """Give a folder that engines and runners load random weights from, while this is open."""
    with (
        tempfile.TemporaryDirectory(prefix=f"gemma2-{shape}-") as name,
        mock.patch.object(runner, "load", _draw),
    ):
        folder = Path(name)
        config = json.dumps(hf_config(SHAPES[shape], labels))
        (folder / "config.json").write_text(config, encoding="utf-8")
        save_file({"none": torch.zeros(1)}, folder / "model.safetensors")
        yield folder


def _draw(shards: Iterator[Shard], *_: Any) -> None:
    """Fill a model as `benchmarks.checkpoints.make_tensor` does, in its own memory."""
    for shard in shards:
        target: Any = shard.target
        mean = 11.0 if shard.name == "model.norm.weight" else 0.0
        std = 0.1 if target.dim() == 1 else shard.full_shape[-1] ** -0.5
        if shard.name == "model.embed_tokens.weight":
            std *= 0.25
        target.normal_(mean, std)
