"""Attention over cut windows against the published form: padded with zeros before the normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.models.window_attention import WindowAttention

WIDTH, HEADS, WINDOW = 24, 3, 4


def padded_attention(module: WindowAttention, x: Tensor) -> Tensor:
    """Pad, cut into windows, attend with the padding taking part, and cut the padding off again."""
    n, h, w, c = x.shape
    size, heads = module.window, module.heads
    x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    windows = x.view(n, rows, size, columns, size, c).transpose(2, 3).reshape(-1, size * size, c)
    qkv = module.qkv(module.norm(windows)).view(len(windows), size * size, heads, 3, c // heads)
    q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
    logits = q @ k.transpose(-2, -1) / (c // heads) ** 0.5 + module.attention_biases[:, module.offsets]
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(n, rows, columns, size, size, c)
    out = out.transpose(2, 3).reshape(n, rows * size, columns * size, c)[:, :h, :w]
    return module.proj(out)


@pytest.fixture
def module() -> WindowAttention:
    torch.manual_seed(0)
    made = WindowAttention(WIDTH, HEADS, WINDOW)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.double()


@pytest.mark.parametrize(
    ("h", "w"), [(4, 4), (8, 12), (6, 4), (4, 5), (5, 6), (9, 11), (3, 2), (1, 1), (2, 9)], ids=str
)
def test_cut_windows_equal_padded_ones(module: WindowAttention, h: int, w: int) -> None:
    x = torch.randn(2, h, w, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(module(x), padded_attention(module, x), rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_padded_windows(module: WindowAttention) -> None:
    x = torch.randn(1, 5, 6, WIDTH, dtype=torch.float64)
    target = torch.randn(1, 5, 6, WIDTH, dtype=torch.float64)
    found = []
    for attention in (module, lambda tokens: padded_attention(module, tokens)):
        module.zero_grad()
        (attention(x) * target).sum().backward()
        found.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_new_weights_take_effect_after_a_call(module: WindowAttention) -> None:
    x = torch.randn(1, 5, 5, WIDTH, dtype=torch.float64)
    module(x)
    with torch.no_grad():
        module.attention_biases.normal_()
    torch.testing.assert_close(module(x), padded_attention(module, x), rtol=1e-10, atol=1e-10)
