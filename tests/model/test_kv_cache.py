import torch

from model.batch import LayerKind
from model.config import ModelConfig
from model.kv_cache import KVCache

CPU = torch.device("cpu")


def config(*kinds: LayerKind) -> ModelConfig:
    values = {
        "model_type": "gemma2",
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": len(kinds),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "sliding_window": 4,
        "layer_types": list(kinds),
    }
    return ModelConfig.from_dict(values, source="test")


ALTERNATING = config(
    "sliding_attention",
    "full_attention",
    "sliding_attention",
    "full_attention",
    "sliding_attention",
)


def cache(num_pages: int = 5, page_size: int = 3) -> KVCache:
    return KVCache(ALTERNATING, num_pages, page_size, 2, torch.float32, CPU)


def test_a_layer_has_pages_of_keys_and_values() -> None:
    keys, values = cache().layer(1)
    assert keys.shape == values.shape == (5, 3, 2, 6)


def test_layers_of_the_two_kinds_share_their_pages_in_turn() -> None:
    pages = cache()
    keys = [pages.layer(i)[0].data_ptr() for i in range(5)]
    values = [pages.layer(i)[1].data_ptr() for i in range(5)]
    for tensors in (keys, values):
        assert tensors[0] == tensors[1]
        assert tensors[2] == tensors[3]
    assert len({*keys, *values}) == 6


def test_bytes_per_page_is_what_is_allocated() -> None:
    allocated = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for layer in map(cache(num_pages=7).layer, range(5))
        for tensor in layer
    }
    assert sum(allocated.values()) == 7 * KVCache.bytes_per_page(ALTERNATING, 3, 2, torch.float32)


def test_bytes_per_page_counts_the_larger_group() -> None:
    full = config("full_attention", "full_attention", "full_attention", "sliding_attention")
    # 3 tensors x (keys, values) x 16 tokens x 2 heads x 6 x 2 bytes
    assert KVCache.bytes_per_page(full, 16, 2, torch.bfloat16) == 3 * 2 * 16 * 2 * 6 * 2


def test_write_puts_each_token_in_its_slot() -> None:
    pages = cache()
    for tensor in pages.layer(2):
        tensor.zero_()
    k, v = torch.randn(3, 2, 6), torch.randn(3, 2, 6)
    pages.write(2, k, v, torch.tensor([14, 0, 4]))
    keys, values = pages.layer(2)
    assert torch.equal(keys[4, 2], k[0])
    assert torch.equal(keys[0, 0], k[1])
    assert torch.equal(values[1, 1], v[2])
    assert torch.count_nonzero(keys) == k.numel()


def test_pages_are_copied_in_order_in_every_layer() -> None:
    pages = cache()
    for layer in range(5):
        for tensor in pages.layer(layer):
            tensor.copy_(torch.arange(5.0)[:, None, None, None].expand_as(tensor) + layer)
    pages.copy_pages([(0, 1), (1, 4), (2, 0)])
    for layer in range(5):
        for tensor in pages.layer(layer):
            assert (tensor[:, 0, 0, 0] - tensor[3, 0, 0, 0]).tolist() == [-1, -3, -1, 0, -3]
