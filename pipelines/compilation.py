"""From pipelines in Python to the IR YAML that a backend runs; the default ones are kept in ``pipelines/compiled``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from pipelines.closure import close_over_parameters
from pipelines.placement import Images
from pipelines.promotion import promotion_pipeline
from pipelines.retrain_all import retrain_all_pipeline
from pipelines.training import training_pipeline

COMPILED = Path(__file__).parent / "compiled"
PIPELINES: Mapping[str, Callable[[Images], BaseComponent]] = {
    "training-cpu": lambda images: training_pipeline(images, gpu=False),
    "training-gpu": lambda images: training_pipeline(images, gpu=True),
    "promotion": promotion_pipeline,
    "retrain-all": lambda images: retrain_all_pipeline(images.launch),
}


def compile_pipeline(name: str, images: Images) -> str:
    """The IR YAML of a pipeline, with the part for Kubernetes as a second document.

    Raises:
        KeyError: no pipeline has that name.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(PIPELINES[name](images), str(path))
        text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    spec, *platform = yaml.safe_load_all(text)
    close_over_parameters(spec)
    return header + yaml.safe_dump_all([spec, *platform], sort_keys=True, width=4096)


def write_compiled(images: Images, folder: Path = COMPILED) -> list[Path]:
    """Compile every pipeline into ``folder``; the files whose content changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name in PIPELINES:
        path, text = folder / f"{name}.yaml", compile_pipeline(name, images)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
