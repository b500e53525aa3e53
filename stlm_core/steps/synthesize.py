"""Step ``synthesize``: the bank of pseudo anomalies of a line's good training and validation images."""

from __future__ import annotations

from pathlib import Path

from stlm_core.config import BANK_SECTIONS, LineConfig
from stlm_core.data.manifest import Manifest
from stlm_core.errors import UserError
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.pose import read_pose
from stlm_core.synthesis.preview import write_preview
from stlm_core.synthesis.textures import open_textures


def synthesize(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Write ``views.npy``, ``masks.npy``, ``index.parquet`` (:mod:`stlm_core.synthesis.bank`), ``pose.json``, with
    ``synthesize.fresh`` the textures for training as ``textures.npy``, and ``figures/preview.png``.

    Raises:
        UserError: the manifest or a texture folder is missing, an image or texture is unreadable, or
            ``synthesize.fresh`` finds no validation image, the only ones whose variants it keeps.
    """
    settings = config.synthesize
    root = config.resolve(config.data.path)
    inputs = {"manifest": workspace.need("validate", "manifest.parquet")}
    textures = None
    if settings.textures is not None:
        textures = inputs["textures"] = config.resolve(settings.textures)

    def work(folder: Path) -> str:
        bank = build_bank(
            folder,
            root,
            _sources(Manifest.read(inputs["manifest"], root), settings.fresh),
            open_textures(textures, config.image.size),
            settings,
            size=config.image.size,
            max_pixels=config.data.max_pixels,
        )
        write_preview(bank, folder / "figures" / "preview.png")
        anomalous = bank.index[bank.index["variant"] > 0]
        return (
            f"{len(bank)} views of {bank.index['path'].nunique()} images, {len(anomalous)} of them pseudo-anomalous "
            f"(mean area {anomalous['mask_fraction'].mean():.1%})" + _rotation(settings.rotation, folder)
        )

    return run_step("synthesize", config, BANK_SECTIONS, inputs, workspace.folder("synthesize"), work, force=force)


def _rotation(setting: str, folder: Path) -> str:
    """What ``synthesize.rotation: auto`` has found."""
    if setting != "auto":
        return ""
    pose = read_pose(folder)
    if pose.across is None:
        return "; too few images to see how the parts lie: not turned"
    said = {
        "any": "the parts lie in any direction: turned at random",
        "quarter": "the parts are turned by quarters: turned so, too",
    }
    return "; " + said.get(pose.policy, "the parts lie one way, or look the same from all sides: not turned")


def _sources(manifest: Manifest, fresh: bool) -> list[SourceImage]:
    rows = (*manifest.train(), *manifest.validation())
    if fresh and all(row.split != "validation" for row in rows):
        raise UserError(
            "synthesize.fresh: the manifest has no `validation` images; raise data.validation_fraction or add "
            "good images"
        )
    return [SourceImage(row.path, row.sha256, row.split) for row in rows]
