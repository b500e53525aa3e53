"""What `dvc repro` runs again after which change: the real DVC on the real dvc.yaml, in a checkout without git.

The steps' commands are replaced by a program that writes, into every output of its stage, a digest of all that the
stage declares to read. So a stage's output changes exactly when one of its declared inputs has changed.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm_process import run_warm

from stlm_core.steps.workspace import STEPS

pytestmark = pytest.mark.slow

_STUB = """#!{python}
import hashlib, pathlib, sys, yaml
step, line = sys.argv[1], sys.argv[3]
tree = yaml.safe_load(open("params.yaml"))
item = tree["lines"][line]
fill = lambda text: (text.replace("${{key}}", line).replace("${{item.profile}}", item["profile"])
                     .replace("${{item.data.path}}", item["data"]["path"]))
stage = yaml.safe_load(open("dvc.yaml"))["stages"][step]["do"]
digest = hashlib.sha256(step.encode())
for dep in map(fill, stage["deps"]):
    path = pathlib.Path(dep)
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else b"")
for name in map(fill, stage["params"]):
    value = tree
    for key in name.split("."):
        value = value[key]
    digest.update(repr(value).encode())
for kind in ("outs", "metrics", "plots"):
    for out in stage.get(kind, []):
        name = fill(next(iter(out)))
        path = pathlib.Path(name)
        if not path.suffix:
            path = path / ("index.json" if step == "cache-teacher" else "file")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{{"digest": "%s"}}' % digest.hexdigest() if path.suffix == ".json" else digest.hexdigest())
with open("ran.log", "a") as log:
    log.write(step + "@" + line + "\\n")
"""


class Checkout:
    """A copy of the pipeline's files with two lines, `sample` and `other`, both reproduced once."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
            shutil.copy(repository / name, folder / name)
        shutil.copytree(repository / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
        shutil.copytree(repository / "stlm_core", folder / "stlm_core", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
        stub = folder / "bin" / "stlm"
        stub.parent.mkdir()
        stub.write_text(_STUB.format(python=sys.executable))
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Edit params.yaml."""
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        edit(tree)
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def add_line(self, name: str) -> None:
        """A line with one image, set up like `sample`."""
        image = self.folder / "data" / name / "image.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text(name)
        if name != "sample":

            def edit(tree: dict[str, Any]) -> None:
                tree["lines"][name] = {**tree["lines"]["sample"], "data": {"path": f"data/{name}", "format": "mvtec"}}

            self.change(edit)

    def repro(self, *targets: str) -> set[str]:
        """Run `dvc repro`; the stages that ran."""
        log = self.folder / "ran.log"
        log.unlink(missing_ok=True)
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = run_warm("dvc", "repro", *targets, cwd=self.folder, env=environment)
        assert done.returncode == 0, done.stderr
        return set(log.read_text().split()) if log.exists() else set()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("checkout"), repository)
    made.change(lambda tree: tree.update(lines={"sample": tree["lines"]["sample"]}))
    made.add_line("sample")
    made.add_line("other")
    assert made.repro() == stages("validate", "sample") | stages("validate", "other")
    return made


def stages(first: str, line: str) -> set[str]:
    """``first`` and all later stages of the line."""
    return {f"{step}@{line}" for step in STEPS[STEPS.index(first) :]}


def test_second_run_does_nothing(checkout: Checkout) -> None:
    compiled = checkout.folder / "stlm_core" / "models" / "__pycache__" / "x.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    (checkout.folder / "outputs" / "sample" / "distill" / "manifest.json").write_text('{"seconds": 1.5}')
    assert checkout.repro() == set()


@pytest.mark.parametrize(
    ("section", "setting", "first"),
    [
        ("distill", {"steps": 7}, "distill"),
        ("fa", {"steps": 7}, "train-fa"),
        ("export", {"parity_images": 3}, "export"),
    ],
)
def test_a_lines_setting_reruns_that_step_and_what_follows(
    checkout: Checkout, section: str, setting: dict[str, int], first: str
) -> None:
    checkout.change(lambda tree: tree["lines"]["other"].update({section: setting}))
    assert checkout.repro() == stages(first, "other")


def test_a_setting_that_no_step_reads_reruns_nothing(checkout: Checkout) -> None:
    checkout.change(lambda tree: tree["lines"]["other"].update(promote={"max_regression": 0.5}))
    assert checkout.repro() == set()


def test_a_profiles_setting_reruns_its_lines(checkout: Checkout) -> None:
    checkout.change(lambda tree: tree["profiles"]["fast"].update(evaluate={"top_pixels": 5}))
    assert checkout.repro() == stages("evaluate", "sample") | stages("evaluate", "other")


def test_a_new_image_reruns_its_line_only(checkout: Checkout) -> None:
    (checkout.folder / "data" / "other" / "new.png").write_text("new")
    assert checkout.repro() == stages("validate", "other")


def test_changed_code_reruns_what_uses_it(checkout: Checkout) -> None:
    with (checkout.folder / "stlm_core" / "export" / "parity.py").open("a") as stream:
        stream.write("# changed\n")
    assert checkout.repro() == stages("export", "sample") | stages("export", "other")


def test_a_new_line_adds_its_stages_and_runs_alone(checkout: Checkout) -> None:
    checkout.add_line("third-line")
    checkout.change(lambda tree: tree["lines"]["other"].update(distill={"steps": 9}))
    assert checkout.repro("register@third-line") == stages("validate", "third-line")
    assert checkout.repro() == stages("distill", "other")
