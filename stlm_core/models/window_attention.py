"""TinyViT's attention inside windows, on grids that are no multiple of the window (paper section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WindowAttention(nn.Module):
    """Multi-head attention inside square windows of (N, H, W, C), with a learned bias per head and absolute offset.

    Where H and W are no multiples of the window, the published model pads with zeros before its normalisation and
    lets the padding take part. All padded tokens of a window have the same key k and value v, known beforehand, so
    what they add to a query's softmax is one token's share: exp(q.k) v times the sum over them of exp(bias). They are
    therefore one token each window, with the log of that sum as its bias, and never ask: on a 16 x 16 grid with
    windows of 14 the attention shrinks to a quarter, and its result is the same.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        at = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (T, 2), T = window^2
        distance = (at[:, None] - at[None, :]).abs()  # (T, T, 2)
        self.register_buffer("offsets", distance[..., 0] * window + distance[..., 1], persistent=False)
        self._layouts: dict[tuple[int, int, torch.device], _Layout] = {}

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        layout = self._layout(h, w, x.device)
        tokens = self.norm(x).flatten(1, 2).index_select(1, layout.order)
        lengths = [windows.tokens for windows in layout.windows]
        # Three products instead of one: their weights are constants of an exported graph, splitting a result is not.
        parts = [F.linear(tokens, *projection).split(lengths, 1) for projection in self._projections()]
        mixed = [self._attend(windows, *qkv) for windows, *qkv in zip(layout.windows, *parts, strict=True)]
        out: Tensor = self.proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1))
        return out.index_select(1, layout.back).view(n, h, w, c)

    def _projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (C, C) and bias (C,) of queries, keys and values; checkpoints keep the three together in each head."""
        width = self.proj.in_features
        weights = self.qkv.weight.view(self.heads, 3, -1, width).unbind(1)
        biases = self.qkv.bias.view(self.heads, 3, -1).unbind(1)
        return [(weight.reshape(width, width), bias.reshape(-1)) for weight, bias in zip(weights, biases, strict=True)]

    def _attend(self, windows: _Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention inside each window of a group, on tokens (N, windows * T, C)."""
        n, count, c = q.shape
        shape = (n * (count // windows.length), windows.length, self.heads, c // self.heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in (q, k, v))
        bias = self.attention_biases[:, windows.offsets]  # (heads, T, T)
        if windows.padding is not None:
            share = self.attention_biases[:, windows.padding].logsumexp(-1, keepdim=True)
            bias = torch.cat([bias, share], -1)
            # The normalisation of a zero token is its bias.
            projected = [F.linear(self.norm.bias, *each).view(self.heads, 1, -1) for each in self._projections()[1:]]
            k, v = (
                torch.cat([part, padded.to(q.dtype).expand(shape[0], -1, -1, -1)], 2)
                for part, padded in zip((k, v), projected, strict=True)
            )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))  # (windows, heads, T, C / heads)
        return out.transpose(1, 2).reshape(n, count, c)

    def _layout(self, h: int, w: int, device: torch.device) -> _Layout:
        """The layout of ``h`` x ``w`` tokens; kept, because indices on a GPU would be copied there at every call."""
        if torch.compiler.is_compiling():
            return _lay_out(h, w, self.window, self.offsets)
        key = (h, w, device)
        if key not in self._layouts:
            self._layouts[key] = _lay_out(h, w, self.window, self.offsets)
        return self._layouts[key]


class _Windows(NamedTuple):
    """Windows of one height and width, of ``length`` T tokens each and ``tokens`` in all.

    ``offsets`` (T, T): which bias a pair of positions takes; ``padding`` (T, P): the same towards the P padded
    positions, None without any.
    """

    length: int
    tokens: int
    offsets: Tensor
    padding: Tensor | None


class _Layout(NamedTuple):
    """``order``: raster numbers of an image's tokens, window after window; ``back``: the way back to raster order."""

    windows: list[_Windows]
    order: Tensor
    back: Tensor


def _lay_out(h: int, w: int, window: int, offsets: Tensor) -> _Layout:
    """Whole windows first, then those that are cut at the right, below, and at both."""
    windows, order = [], []
    for top, bottom in _spans(h, window):
        for left, right in _spans(w, window):
            high, wide = min(window, bottom - top), min(window, right - left)
            tokens = [
                row * w + column
                for y in range(top, bottom, high)
                for x in range(left, right, wide)
                for row in range(y, y + high)
                for column in range(x, x + wide)
            ]
            inside = [row * window + column for row in range(high) for column in range(wide)]
            padding = sorted(set(range(window**2)) - set(inside))
            own = offsets[torch.tensor(inside, device=offsets.device)]
            windows.append(
                _Windows(
                    len(inside),
                    len(tokens),
                    own[:, torch.tensor(inside, device=offsets.device)],
                    own[:, torch.tensor(padding, device=offsets.device)] if padding else None,
                )
            )
            order += tokens
    back = sorted(range(h * w), key=order.__getitem__)
    return _Layout(windows, torch.tensor(order, device=offsets.device), torch.tensor(back, device=offsets.device))


def _spans(side: int, window: int) -> list[tuple[int, int]]:
    """Where the whole windows lie along a side, and where the cut one, if there are any."""
    whole = side // window * window
    return [(start, end) for start, end in ((0, whole), (whole, side)) if end > start]
