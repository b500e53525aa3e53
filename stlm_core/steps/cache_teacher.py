"""Step ``cache-teacher``: the frozen teacher's features of every view in the bank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stlm_core.cache.features import CleanPyramidRows, TeacherRows
from stlm_core.cache.store import belongs_to_shard, chunks_are_sound, fill, write_index
from stlm_core.config import CACHED_SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.models.tiny_vit import STRIDES
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.weights import weights_folder
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank
from stlm_core.teachers.registry import load_teacher, locate_weights, plain_teacher
from stlm_core.training.optimisation import autocast_dtype, pick_device

STEP = "cache-teacher"


def grid_side(config: LineConfig) -> int:
    """Cells a side of the students' feature grid.

    Raises:
        UserError: the input size is not a multiple of the stem's stride.
    """
    stride = STRIDES[config.model.stem]
    if config.image.size % stride:
        raise UserError(
            f"image.size: {config.image.size} is not a multiple of {stride}, the stride of {config.model.stem}"
        )
    return config.image.size // stride


def cache_teacher(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Compute and keep the teacher's features of all views; rows that an earlier cache holds are reused.

    Raises:
        UserError: the bank or the teacher's weights are missing.
    """
    folder = workspace.folder(STEP)
    return _run(config, workspace, folder, [folder], None, force)


def cache_teacher_shard(
    config: LineConfig, workspace: Workspace, shard: int, shards: int, folder: Path, *, force: bool = False
) -> StepResult:
    """Compute shard number ``shard`` (from 0) of ``shards`` into ``folder``, to be merged later.

    Raises:
        UserError: the numbers are not 0 <= shard < shards, or an input is missing.
    """
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard}/{shards}: the first number must be from 0 to {shards - 1}")
    return _run(config, workspace, folder, [folder], (shard, shards), force)


def merge_shards(
    config: LineConfig, workspace: Workspace, shards: Sequence[Path], *, force: bool = False
) -> StepResult:
    """Join the shards' folders into the step's output; what is missing or damaged in them is computed here.

    Raises:
        UserError: a shard's folder does not exist.
    """
    for shard in shards:
        if not shard.is_dir():
            raise UserError(f"{shard}: no such folder; compute the shard first")
    folder = workspace.folder(STEP)
    return _run(config, workspace, folder, [folder, *shards], None, force)


def _run(
    config: LineConfig,
    workspace: Workspace,
    folder: Path,
    sources: list[Path],
    shard: tuple[int, int] | None,
    force: bool,
) -> StepResult:
    """Run the step into ``folder``, which holds one ``shard`` (number, of how many) or with None all views."""
    inputs: dict[str, Path | str] = {
        "bank": workspace.need("synthesize", "index.parquet"),
        "teacher": locate_weights(config.teacher, weights_folder(config.root), config.root),
    }
    if shard is not None:
        inputs["shard"] = f"{shard[0]}/{shard[1]}"
    return run_step(
        STEP,
        config,
        CACHED_SECTIONS,
        inputs,
        folder,
        lambda partial: _fill(config, workspace, partial, sources, shard),
        resumable=True,
        force=force,
        still_good=chunks_are_sound,
    )


def _fill(
    config: LineConfig, workspace: Workspace, partial: Path, sources: list[Path], shard: tuple[int, int] | None
) -> str:
    bank = Bank.open(workspace.folder("synthesize"))
    device = pick_device()
    settings = config.teacher
    plain = config.model.plain_stream == "teacher"
    if plain:
        settings = plain_teacher(settings, config.image.size)
    teacher = load_teacher(settings, weights_folder(config.root), config.root)
    autocast = autocast_dtype(settings.autocast, device)
    rows = (CleanPyramidRows if plain else TeacherRows)(
        bank, teacher, grid_side(config), settings.batch_size, device, autocast, kept_as=settings.cache_dtype
    )
    keys = rows.keys
    views = [view for view, key in enumerate(keys) if shard is None or belongs_to_shard(key, *shard)]
    report = fill(
        partial,
        [keys[view] for view in views],
        lambda positions: rows([views[position] for position in positions]),
        dtype=settings.cache_dtype,
        sources=sources,
        rows_per_chunk=settings.shard_views,
        label=f"{STEP} {config.name}",
    )
    if shard is None:
        write_index(partial, keys)
    repaired = f", {report.damaged} damaged replaced" if report.damaged else ""
    return f"{report.computed} views computed, {report.reused} reused{repaired} ({settings.name})"
