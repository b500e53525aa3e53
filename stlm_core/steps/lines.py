"""Lines of ``params.yaml``: list them, remove one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from stlm_core.config import load_line, load_params
from stlm_core.data.catalog import open_catalog
from stlm_core.errors import UserError
from stlm_core.steps.line_files import LineFolder
from stlm_core.steps.params_file import editing, without_entry, write_params


@dataclass(frozen=True, slots=True)
class ListedLine:
    """One line of ``params.yaml``. ``images`` and ``batches`` count what its catalogue lists, None without one.

    ``present``: whether its folder of images exists; ``tracked``: whether DVC has a pointer to that folder.
    """

    name: str
    profile: str
    layout: str
    path: str
    license: str
    present: bool
    images: int | None
    batches: int | None
    tracked: bool


def list_lines(params: Path) -> list[ListedLine]:
    """All lines in file order.

    Raises:
        UserError: ``params`` or a catalogue cannot be read, or a line's settings are wrong.
    """
    listed = []
    for name in load_params(params)["lines"]:
        config = load_line(params, name)
        data = config.data
        images = config.resolve(data.path)
        catalog = open_catalog(config)
        listed.append(
            ListedLine(
                name,
                config.profile,
                data.format,
                data.path,
                data.license,
                images.is_dir(),
                None if catalog is None else len(catalog.rows),
                None if catalog is None else len({row.batch for row in catalog.rows}),
                images.with_name(f"{images.name}.dvc").is_file(),
            )
        )
    return listed


def remove_line(params: Path, name: str) -> list[Path]:
    """Take the line out of ``params``; images, catalogue, outputs and models stay, so every version can be had again.

    Returns:
        Folders of the line that were left, those that exist: its images and ``data/lines/<name>``.

    Raises:
        UserError: there is no such line, or its entry cannot be cut out of the file.
    """
    with editing(params) as project:
        tree = load_params(params)
        if name not in tree["lines"]:
            raise UserError(f"{params}: no line `{name}` (known: {', '.join(tree['lines']) or 'none'})")
        settings = (tree["lines"][name] or {}).get("data") or {}
        text = without_entry(params, params.read_text(encoding="utf-8"), name)
        del tree["lines"][name]
        if text is None or (yaml.safe_load(text) or {}) != tree:
            raise UserError(f"{params}: the entry of `{name}` is not laid out as a block; remove it by hand")
        write_params(params, text)
    folder = LineFolder.of(project, name).path
    images = (project / str(settings["path"])).resolve() if "path" in settings else folder
    left = [folder] if images.is_relative_to(folder) else [images, folder]
    return [path for path in left if path.is_dir()]
