"""What docs/long-context.md says of the published sizes, computed by what sizes the cache."""

import re
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig
from model.convert.sizes import SIZES, VOCABULARY, Size, published_config
from model.engine.memory import layer_windows
from model.hybrid_cache import HybridCache
from model.kv_cache import KVCache
from pipelines.footprint import cache_room, weigh
from pipelines.job import Resources
from pipelines.placement import place

DOCS = Path(__file__).parents[2] / "docs" / "long-context.md"
PAGE = 16
GIB = 1 << 30


def config_of(size: Size) -> ModelConfig:
    values = published_config(size.dimensions, VOCABULARY, "here")
    return ModelConfig.from_dict(values | {"torch_dtype": "bfloat16"}, source="here")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_the_table_in_the_docs(size: Size) -> None:
    config = config_of(size)
    cache = HybridCache(0, PAGE, layer_windows(config))
    page = KVCache.bytes_per_page(config, PAGE, config.num_key_value_heads, torch.bfloat16)
    expected = []
    for tokens in (4096, 6144, 8192):
        whole, held = cache.held(tokens, windows=False) * page, cache.held(tokens) * page
        expected.append(
            f"| {size.name} | {tokens:,} | {whole / 2**20:,.0f} MiB | {held / 2**20:,.0f} MiB "
            f"| {1 - held / whole:.0%} |".replace("%", " %")
        )
    rows = re.findall(rf"(?m)^\| {size.name} \|.*$", DOCS.read_text(encoding="utf-8"))
    assert rows == expected


def test_plan_says_the_same() -> None:
    config = config_of(SIZES[0])
    resources = Resources(device="cuda", page_size=PAGE)
    weights = weigh(config, "bfloat16", "none", 1)
    placement = place(resources, [{"GPU": 1.0, "CPU": 8.0}])
    lengths = (0, 100, 4096, 8192)
    room = cache_room(config, "bfloat16", resources, placement, weights, 24 * GIB, lengths)
    assert room.sequence_bytes[8192] == 624 << 20
    assert room.windowless_bytes[8192] == 832 << 20
    assert room.sequence_bytes[4096] == room.windowless_bytes[4096] == 416 << 20
    assert set(room.sequence_bytes) == set(room.windowless_bytes) == {100, 4096, 8192}
