"""A git and DVC project with one tracked line, made anew for a test."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from warm_process import STLM, run_warm

from stlm_core.config import SECTIONS
from stlm_core.files import sha256_tree
from stlm_core.integrations.versioning import track

LINE = "caps"
IMAGES = Path("data", "lines", LINE, "images")


@dataclass(frozen=True)
class VersionedProject:
    """``folder`` with params.yaml and the line ``caps``; ``environment`` of every command run in it."""

    folder: Path
    environment: dict[str, str]

    @property
    def images(self) -> Path:
        """Folder of the line's images."""
        return self.folder / IMAGES

    @property
    def pointer(self) -> Path:
        """The ``.dvc`` file of the images."""
        return self.images.with_name("images.dvc")

    def stlm(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``stlm`` as a user would; failing is the caller's to see."""
        return run_warm("stlm", *arguments, cwd=self.folder, env=self.environment | variables)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``stlm`` and return."""
        return subprocess.Popen(
            **self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def command(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """What ``subprocess`` needs to run ``stlm``."""
        return {
            "args": [*STLM, *arguments],
            "cwd": self.folder,
            "env": self.environment | variables,
        }

    def dvc(self, *arguments: str) -> str:
        """Run DVC itself; its standard output."""
        done = run_warm("dvc", *arguments, cwd=self.folder, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_images(self, count: int, size: int = 2000, seed: int = 0) -> str:
        """Write ``count`` files of random bytes, track them; the folder's sha256."""
        rng = random.Random(seed)
        self.images.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (self.images / f"{seed}-{number:05d}.png").write_bytes(rng.randbytes(size))
        assert track(self.images) == self.pointer
        return sha256_tree(self.images)

    def copy(self, folder: Path, **variables: str) -> VersionedProject:
        """The same project in a new ``folder``, with ``variables`` in its environment too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return VersionedProject(folder, self.environment | {"DVC_SITE_CACHE_DIR": f"{folder}.site"} | variables)

    def use_folder(self, remote: Path) -> Path:
        """Make ``remote`` the default remote as ``stlm data remote`` does, without waiting for it; gives ``remote``."""
        remote.mkdir(exist_ok=True)
        section = f"['remote \"storage\"']\n    url = {remote}\n    verify = true\n"
        (self.folder / ".dvc" / "config.local").write_text(f"[core]\n    remote = storage\n{section}")
        return remote

    def lose_everything(self) -> None:
        """Delete the images and DVC's cache, as on a new machine."""
        shutil.rmtree(self.images, ignore_errors=True)
        shutil.rmtree(self.folder / ".dvc" / "cache", ignore_errors=True)
        shutil.rmtree(self.environment["DVC_SITE_CACHE_DIR"], ignore_errors=True)

    def cached(self) -> list[Path]:
        """The files of DVC's cache that hold images."""
        return sorted(
            file for file in (self.folder / ".dvc" / "cache").rglob("*") if file.is_file() and file.suffix != ".dir"
        )


def make_project(folder: Path, environment: dict[str, str]) -> VersionedProject:
    """A project in a new ``folder``; ``environment`` is added to this process's own, less the AWS settings in it."""
    folder.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_"))}
    site = {"DVC_SITE_CACHE_DIR": str(folder.parent / "site"), "DVC_NO_ANALYTICS": "true", "OMP_NUM_THREADS": "1"}
    project = VersionedProject(folder, kept | site | environment)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    project.dvc("init", "--quiet")
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".gitignore").write_text("/data/?*\n!/data/lines/\n")
    line = {name: {} for name in SECTIONS} | {
        "profile": "fast",
        "data": {"path": IMAGES.as_posix(), "format": "folder"},
    }
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {LINE: line}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return project
