"""LoRA (Hu et al. 2021, arXiv:2106.09685) as PEFT saves it: read strictly, merged or beside.

A projection's weight W becomes W + scaling * B A, with A [R, D] and B [N, R]. Either the sum is
taken once, while a checkpoint is loaded (`merge`); or W stays, and each row of a step has the
products of its own adapter added (`updates`), so that many adapters share one engine.
"""

from .adapter import Adapter, LowRank, read_adapter
from .merge import adapted_config, load_merged
from .updates import AdapterSet, Updates, column_updates, head_forms, row_updates

__all__ = [
    "Adapter",
    "AdapterSet",
    "LowRank",
    "Updates",
    "adapted_config",
    "column_updates",
    "head_forms",
    "load_merged",
    "read_adapter",
    "row_updates",
]
