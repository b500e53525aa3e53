"""The lines of the benchmark: where their images are, and a project in which ``stlm`` runs for them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.accuracy.reduced import reduce_line
from stlm_core.config import SECTIONS, deep_merge
from stlm_core.data.adapters import ADAPTERS
from stlm_core.data.images import read_image, read_mask
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.data.sample_line import write_sample_line
from stlm_core.errors import UserError
from stlm_core.steps.validate import MANIFEST_FILE
from stlm_core.steps.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
_PARAMS = REPOSITORY / "params.yaml"
PROFILES: Mapping[str, Any] = yaml.safe_load(_PARAMS.read_text(encoding="utf-8"))["profiles"]
DATASETS = REPOSITORY.parent / "shared" / "datasets"
KNOWN = ("sample", "bottle", "screw", "magnetic-tile", "elpv")
# What is known of the parts without a look at their defects: screws and bottles lie in any pose.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "bottle": {"synthesize": {"rotation": "any"}},
    "screw": {"synthesize": {"rotation": "any"}},
}
_SEEDED = ("data", "synthesize", "distill", "fa")


@dataclass(frozen=True)
class Line:
    """A product line. ``folder``: absolute, of images in the layout ``format``. ``own``: further settings of its own,
    laid under those of a configuration."""

    name: str
    folder: Path
    format: str
    own: Mapping[str, Any]


def find_line(spec: str, datasets: Path, project: Path) -> Line:
    """One of :data:`KNOWN`, or ``NAME=FOLDER[:FORMAT[:CATEGORY]]`` (the format is ``mvtec`` unless named).

    ``NAME@20`` and ``NAME@2%`` (with ``=FOLDER`` after it where the name is not known): a line in MVTec's layout with
    20 good images, or with 2 % unmarked defects among them (:func:`~benchmarks.accuracy.reduced.reduce_line`).

    ``datasets`` holds ``mvtec_ad/bottle``, ``mvtec_ad/screw``, ``magnetic_tile`` and ``dtd_textures``; without the last
    the embedded textures are used. The sample line is drawn into ``project``.

    Raises:
        UserError: the name or format is unknown, or the folder is missing.
    """
    name, named, rest = spec.partition("=")
    whole, reduced, change = name.partition("@")
    if reduced:
        line = find_line(whole + named + rest, datasets, project)
        if line.format != "mvtec":
            raise UserError(f"line {name}: `@` is for MVTec's layout, not for {line.format}")
        name = f"{whole}-{change.replace('%', '-percent')}"
        return replace(line, name=name, folder=reduce_line(line.folder, change, project / "lines" / name))
    if named:
        folder, layout, category, *more = [*rest.split(":"), "", ""]
        if any(more):
            raise UserError(f"line {name}: {rest}: a folder, a format and a category are all there is")
        return _line(name, Path(folder), layout or "mvtec", datasets, category)
    if name == "sample":
        drawn = project / "sample"
        if not drawn.exists():
            write_sample_line(drawn)
        return Line(name, drawn, "mvtec", {"data": {"license": "CC0-1.0"}})
    if name in ("bottle", "screw"):
        return _line(name, datasets / "mvtec_ad" / name, "mvtec", datasets)
    if name == "magnetic-tile":
        return _line(name, datasets / "magnetic_tile", "magnetic_tile", datasets)
    if name == "elpv":
        package = importlib.util.find_spec("elpv_dataset")
        if package is None or package.origin is None:
            raise UserError("line elpv: `pip install --no-deps elpv-dataset`, or name a copy: elpv=FOLDER:elpv:all")
        return _line(name, Path(package.origin).parent, "elpv", datasets, "all")
    raise UserError(f"unknown line {name}: {', '.join(KNOWN)}, or NAME=FOLDER[:FORMAT[:CATEGORY]]")


def _line(name: str, folder: Path, layout: str, datasets: Path, category: str = "") -> Line:
    if layout not in ADAPTERS:
        raise UserError(f"line {name}: unknown format {layout}: {', '.join(ADAPTERS)}")
    if not folder.is_dir():
        raise UserError(f"line {name}: no folder {folder}")
    textures = datasets / "dtd_textures"
    settings: dict[str, Any] = {"synthesize": {"textures": str(textures.resolve())}} if textures.is_dir() else {}
    if not ADAPTERS[layout].masks:
        settings["validate"] = {"require_masks": False}
    if category:
        settings["data"] = {"category": category}
    return Line(name, folder.resolve(), layout, deep_merge(settings, dict(_OWN.get(name, {}))))


def line_settings(line: Line, seed: int, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of ``params.yaml``: the line's own settings, the seed everywhere, the configuration over them."""
    settings: dict[str, Any] = {"profile": "fast", **{section: {} for section in SECTIONS}}
    settings = deep_merge(settings, dict(line.own))
    settings = deep_merge(settings, {section: {"seed": seed} for section in _SEEDED})
    settings = deep_merge(settings, dict(configuration))
    return deep_merge(settings, {"data": {"path": str(line.folder), "format": line.format}})


def write_params(project: Path, name: str, settings: Mapping[str, Any]) -> None:
    """``params.yaml`` of the project: this checkout's defaults and profiles, and one line."""
    tree = yaml.safe_load(_PARAMS.read_text(encoding="utf-8"))
    tree["lines"] = {name: dict(settings)}
    project.mkdir(parents=True, exist_ok=True)
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def stlm(project: Path, arguments: Sequence[str]) -> None:
    """Run the command line in the project, with this interpreter and the weights of this checkout.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    environment = {"STLM_WEIGHTS": str(REPOSITORY / ".stlm" / "weights"), **os.environ}
    command = [sys.executable, "-c", "from stlm_core.cli import main; main()", *arguments]
    subprocess.run(command, cwd=project, env=environment, check=True)


def validated(project: Path, line: Line) -> Manifest:
    """The line's images as the pipeline's own step ``validate`` lists them, with seed 0.

    The seed moves good images between training, validation and calibration; the test split is always the same.
    """
    name = f"{line.name}-images"
    write_params(project, name, line_settings(line, 0, {}))
    stlm(project, ["validate", "--line", name])
    return Manifest.read(Workspace(project / "outputs", name).need("validate", MANIFEST_FILE), line.folder)


def load_pair(manifest: Manifest, row: ManifestRow) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """The row's image, uint8 (H, W, 3), and its mask, bool (H, W); None for a good image and where there is none."""
    image, path = read_image(manifest.image_path(row)), manifest.mask_path(row)
    return image, read_mask(path, image.shape[:2]) if row.label and path is not None else None
