"""Published versions of a line without DVC and without images, for tests that only read what is said of them."""

from __future__ import annotations

from pathlib import Path

from stlm_core.settings import DataConfig
from stlm_core.steps.line_versions import LineVersion, latest_name, revision_of, version_name


def pointer_of(path: str, digest: str) -> bytes:
    """What ``dvc add`` writes for a folder of that hash."""
    return f"outs:\n- md5: {digest}.dir\n  size: 2\n  nfiles: 1\n  hash: md5\n  path: {Path(path).name}\n".encode()


def make_version(line: str, data: DataConfig, digest: str = "a" * 32, **tables: bytes) -> LineVersion:
    """A version of images with that hash; ``tables``: content of ``catalog`` or ``group_file``."""
    files = {f"{data.path}.dvc": pointer_of(data.path, digest)}
    files |= {str(getattr(data, setting)): content for setting, content in tables.items()}
    return LineVersion(line, revision_of(data, f"{data.path}.dvc", files), data, "/nowhere", f"{data.path}.dvc", files)


def put(shelf: Path, version: LineVersion) -> str:
    """Publish it in the folder ``shelf``; its revision."""
    target = shelf / version_name(version.line, version.revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(version.to_bytes())
    (shelf / latest_name(version.line)).write_text(f"{version.revision}\n")
    return version.revision
