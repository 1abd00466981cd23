"""Attention over the cache of clean blocks."""

import torch

from services.rollout.engines.kv_cache import BlockAttend, KVCache
from tests.support.tiny_models import tiny_model

BLOCK, START = 4, 12


def test_attention_over_fp32_is_summed_in_fp64_and_rounded_once() -> None:
    config = tiny_model().model.config
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    generator = torch.Generator().manual_seed(0)
    clean_keys, clean_values = torch.randn(2, START, groups, width, generator=generator)
    key, value = torch.randn(2, 1, groups, BLOCK, width, generator=generator)
    query = torch.randn(1, heads, BLOCK, width, generator=generator)
    cache = KVCache(config, 1, 64, torch.float32, torch.device("cpu"))
    cache.keys[0, 0, :START], cache.values[0, 0, :START] = clean_keys, clean_values

    ours = BlockAttend(cache, torch.tensor([START]), BLOCK)(0, query, key, value, 0.3)

    keys, values = (
        torch.cat([clean.transpose(0, 1), new[0]], 1).double().repeat_interleave(heads // groups, 0)
        for clean, new in ((clean_keys, key), (clean_values, value))
    )
    expected = ((query[0].double() @ keys.transpose(-1, -2) * 0.3).softmax(-1) @ values).float()
    assert ours.dtype == torch.float32
    assert float((ours[0] == expected).double().mean()) > 0.98
    torch.testing.assert_close(ours[0], expected, rtol=2e-7, atol=1e-9)
