"""Weights in fewer bits: the formats, and how they lie in checkpoints.

A weight is quantized when it is loaded, or it was before it was written; from then on both go the
same way, so the answers are the same to the last bit.
"""

from .base import Format, QuantizedWeight, Weight, weight_shards
from .formats import FORMATS, empty_weight, format_name, quantized

__all__ = [
    "FORMATS",
    "Format",
    "QuantizedWeight",
    "Weight",
    "empty_weight",
    "format_name",
    "quantized",
    "weight_shards",
]
