"""SAM's two-way transformer run with the null prompt, up to the image tokens (paper section 3.2).

The mask decoder stops there: no upscaling, no mask heads, no IoU head. SAM's last token-to-image attention
changes the prompt tokens only, so it is not built either. Parameter names follow SAM's checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.tiny_vit import EMBED_DIM

_HEADS = 8
_MLP_DIM = 2048
_DEPTH = 2
_MASK_TOKENS = 4


class Attention(nn.Module):
    """Multi-head attention whose inner width is the outer one divided by ``downsample``.

    With ``shared_queries`` the queries are the same for all images: their first dimension is 1.
    """

    def __init__(self, downsample: int = 1, shared_queries: bool = False) -> None:
        super().__init__()
        self.shared_queries = shared_queries
        inner = EMBED_DIM // downsample
        self.q_proj = nn.Linear(EMBED_DIM, inner)
        self.k_proj = nn.Linear(EMBED_DIM, inner)
        self.v_proj = nn.Linear(EMBED_DIM, inner)
        self.out_proj = nn.Linear(inner, EMBED_DIM)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_place: Tensor | None = None, k_place: Tensor | None = None
    ) -> Tensor:
        """Queries (N, T, C) over keys and values (N, S, C) to (N, T, C).

        ``q_place`` and ``k_place`` are positional terms (1, T, C) and (1, S, C) of queries and keys. They are projected
        by themselves: the same for every image, they are constants of an exported graph.
        """
        queries = self.q_proj(q) if q_place is None else self.q_proj(q) + F.linear(q_place, self.q_proj.weight)
        keys = self.k_proj(k) if k_place is None else self.k_proj(k) + F.linear(k_place, self.k_proj.weight)
        queries = _heads(queries)
        if self.shared_queries:
            queries = queries.expand(k.shape[0], -1, -1, -1)
        out = F.scaled_dot_product_attention(
            queries, _heads(keys), _heads(self.v_proj(v))
        )  # (N, heads, T, inner / heads)
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


def _heads(x: Tensor) -> Tensor:
    split: Tensor = x.unflatten(-1, (_HEADS, -1))
    return split.transpose(1, 2)


class MlpBlock(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(EMBED_DIM, _MLP_DIM)
        self.lin2 = nn.Linear(_MLP_DIM, EMBED_DIM)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class TwoWayBlock(nn.Module):
    """Token self-attention, tokens to image, MLP on tokens, image to tokens."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(EMBED_DIM)
        self.cross_attn_token_to_image = Attention(downsample=2, shared_queries=first)
        self.norm2 = nn.LayerNorm(EMBED_DIM)
        self.mlp = MlpBlock()
        self.norm3 = nn.LayerNorm(EMBED_DIM)
        self.norm4 = nn.LayerNorm(EMBED_DIM)
        self.cross_attn_image_to_token = Attention(downsample=2)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # SAM's first layer: no positional term and no residual
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            tokens = tokens + self.self_attn(tokens, tokens, tokens, token_pe, token_pe)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens, image, image, token_pe, image_pe))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image, tokens, tokens, image_pe, token_pe))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Image tokens (N, h*w, 256) and prompt tokens (1, T, 256), the same for all, attending to each other, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=index == 0) for index in range(_DEPTH))

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> Tensor:
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        return image


class PromptFreeDecoder(nn.Module):
    """Embedding (N, 256, h, w) to the image-token output (N, 256, h, w) of the transformer with the null prompt.

    The null prompt: no points or boxes, and SAM's learned "no mask" embedding added at every position. The
    learned output tokens (one IoU token, four mask tokens) are the only prompt tokens.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, EMBED_DIM)
        self.mask_tokens = nn.Embedding(_MASK_TOKENS, EMBED_DIM)
        self.no_mask_embed = nn.Embedding(1, EMBED_DIM)
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, EMBED_DIM // 2))

    def forward(self, embedding: Tensor) -> Tensor:
        n, _, h, w = embedding.shape
        image = (embedding + self.no_mask_embed.weight[0, :, None, None]).flatten(2).transpose(1, 2)  # (N, h*w, C)
        # One copy for all images: what is computed from it before it meets an image is a constant.
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None]
        pe = self.position(h, w)[None]
        out: Tensor = self.transformer(image, pe, tokens)
        return out.transpose(1, 2).reshape(n, EMBED_DIM, h, w)

    def position(self, h: int, w: int) -> Tensor:
        """SAM's random Fourier features of the cell centres, (h*w, 256)."""
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(h, device=matrix.device, dtype=matrix.dtype) + 0.5) / h
        x = (torch.arange(w, device=matrix.device, dtype=matrix.dtype) + 0.5) / w
        cells = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], -1)  # (h, w, 2) as (x, y)
        phase = 2 * math.pi * ((2 * cells - 1) @ matrix)
        return torch.cat([phase.sin(), phase.cos()], -1).flatten(0, 1)
