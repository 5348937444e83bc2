"""Which tokens a token sees, in full layers and in sliding ones: asked of attention, not drawn.

The reference backend attends with scores that are all alike and with unit vectors as values. What
it gives for a query is then that query's weight on each key, and keys without weight are masked.
So there is no second definition of the masks that could differ from the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .attention import ReferenceAttention
from .batch import GroupLayout, LayerKind, PackedBatch
from .config import ModelConfig
from .errors import ParameterError

# The work grows with the cube of it.
MOST_TOKENS = 1024

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AttentionMask:
    """What the layers of one kind let a text's tokens see.

    Attributes:
        kind: of the layers.
        layers: which ones, from 0.
        window: keys that a query sees, itself included; None for all up to itself.
        sees: [T, T] whether the query of the row sees the key of the column.
    """

    kind: LayerKind
    layers: tuple[int, ...]
    window: int | None
    sees: Bools

    def runs(self, query: int) -> Iterator[tuple[int, int]]:
        """Give the ranges [start, stop) of keys that a query sees."""
        edges = np.flatnonzero(np.diff(self.sees[query].astype(np.int8), prepend=0, append=0))
        yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def attention_masks(
    config: ModelConfig, tokens: int, window: int | None = None
) -> list[AttentionMask]:
    """Give the masks of a prompt, one for each kind of layer that the model has, full ones first.

    Args:
        config: of the model.
        tokens: length of the prompt.
        window: of sliding layers, in place of the model's own.

    Raises:
        ParameterError: the prompt is longer than MOST_TOKENS, or the window is none of this model.
    """
    if tokens > MOST_TOKENS:
        raise ParameterError(
            f"the text has {tokens:,} tokens, and masks are shown of up to {MOST_TOKENS:,}: take "
            "less of it, and a smaller window"
        )
    _check_window(config, window)
    masks = []
    for kind in sorted(set(config.layer_types)):
        own = config.window(kind)
        shown = own if own is None or window is None else window
        layers = tuple(n for n, other in enumerate(config.layer_types) if other == kind)
        masks.append(AttentionMask(kind, layers, shown, _visible(tokens, shown)))
    return masks


def _check_window(config: ModelConfig, window: int | None) -> None:
    if window is None:
        return
    if "sliding_attention" not in config.layer_types:
        raise ParameterError("this model has no sliding layers, so there is no window to change")
    if not 1 <= window <= config.sliding_window:
        raise ParameterError(
            f"the model's window is {config.sliding_window:,} tokens; a smaller one to show has 1 "
            f"to {config.sliding_window:,}, not {window:,}"
        )


def _visible(tokens: int, window: int | None) -> Bools:
    """Have the tokens of one prompt attend to each other: [T, T] who weighs something for whom."""
    backend, device = ReferenceAttention(), torch.device("cpu")
    size = backend.page_size
    pages = -(-tokens // size)
    places, lengths = np.arange(tokens), np.array([tokens])
    layout = GroupLayout(places, (np.arange(pages),), np.zeros(1, dtype=np.int64))
    batch = PackedBatch(np.zeros_like(places), places, lengths, lengths, {})
    plan = backend.plan(batch, layout, size, window, device)
    q_TNH = torch.zeros(tokens, 1, tokens)
    k_pages = torch.zeros(pages, size, 1, tokens)
    v_pages = torch.eye(pages * size, tokens).view_as(k_pages)
    weights_TNH = backend.attend(q_TNH, k_pages, v_pages, plan, scale=1.0, softcap=None)
    return np.asarray(weights_TNH[:, 0].numpy() > 0)
