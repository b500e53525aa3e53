"""The parts list of an image, written here for a small environment of its own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg, as the images have it")
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+
 The text
 .
 License: none

Files: debian/*
License: Expat
"""
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u10
Maintainer: Somebody <somebody@example.org>
Description: shared libraries
Homepage: https://www.gnu.org/software/libc/libc.html

Package: old
Status: deinstall ok config-files
Architecture: amd64
Version: 1:1.0
Maintainer: Somebody <somebody@example.org>
Description: removed, its settings are left
"""


@pytest.fixture(scope="module")
def sbom(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", repository / "infra/docker/sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path: Path, sbom: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with two distributions of this one's, pip's report of one of them, and dpkg's list of packages."""
    (tmp_path / "dpkg/info").mkdir(parents=True)
    (tmp_path / "dpkg/updates").mkdir()
    (tmp_path / "dpkg/info/format").write_text("1\n")
    (tmp_path / "dpkg/status").write_text(STATUS)
    monkeypatch.setenv("DPKG_ADMINDIR", str(tmp_path / "dpkg"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    packages = tmp_path / "venv/lib/python3.11/site-packages"
    for name in ("jinja2", "markupsafe"):
        (found,) = Path(sysconfig.get_paths()["purelib"]).glob(f"{name}-*.dist-info")
        shutil.copytree(found, packages / found.name)
    (lists,) = packages.glob("markupsafe-*.dist-info")
    (lists / "sboms").mkdir(exist_ok=True)
    (lists / "sboms/own.cdx.json").write_text("{}")
    monkeypatch.setattr(sbom, "PYTHON", str(tmp_path / "venv/bin/python"))
    monkeypatch.setattr(sbom, "PACKAGES", packages)
    # The interpreter below may have hundreds of distributions here, and the schema takes its time with their addresses.
    monkeypatch.setattr(sbom, "_interpreter_below", lambda: sbom.PYTHON)
    archive = {"archive_info": {"hashes": {"sha256": "ab" * 32}}, "url": "https://index.example.org/Jinja2.whl"}
    report = {"install": [{"metadata": {"name": "Jinja2"}, "download_info": archive}]}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/serve.json").write_text(json.dumps(report))
    return tmp_path


def test_the_list_names_what_is_there(sbom: ModuleType, environment: Path) -> None:
    output = environment / "list.json"
    sbom.main("stlm-serve", "0.1.0", "abc", environment / "reports", output)
    text = output.read_text()
    assert "index.example.org" not in text
    parts: dict[str, dict[str, Any]] = {part["purl"]: part for part in json.loads(text)["components"]}
    jinja, markup = (parts[f"pkg:pypi/{name}@{version(name)}"] for name in ("jinja2", "markupsafe"))
    assert jinja["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert "hashes" not in markup
    assert jinja["licenses"]
    assert [entry["url"].rpartition("/")[2] for entry in markup["externalReferences"] if entry["type"] == "bom"] == [
        "own.cdx.json"
    ]
    (debian,) = (part for purl, part in parts.items() if purl.startswith("pkg:deb/"))
    assert debian["purl"].startswith("pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-")
    assert debian["properties"] == [{"name": "debian:source", "value": "glibc"}]
    assert f"pkg:generic/python@{sys.version.split()[0]}" in parts
    sbom.main("stlm-serve", "0.1.0", "abc", environment / "reports", output)
    assert output.read_text() == text, "the same image has the same list"


def test_a_list_that_its_schema_does_not_allow_is_not_written(
    sbom: ModuleType, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sbom, "_python", lambda: {"bom-ref": "cpython", "purl": "pkg:generic/python@3", "type": "snake"}
    )
    with pytest.raises(SystemExit, match="stlm-serve: not valid CycloneDX"):
        sbom.main("stlm-serve", "0.1.0", "abc", environment / "reports", environment / "list.json")
    assert not (environment / "list.json").exists()


def test_licences_of_debian_packages_come_from_files_that_machines_can_read(sbom: ModuleType) -> None:
    assert sbom.licenses_in(COPYRIGHT) == ["Expat", "GPL-2+"]
    assert sbom.licenses_in("This package was debianized by somebody.\n\nLicense: see below") == []
