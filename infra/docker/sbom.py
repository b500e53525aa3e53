"""Inside a build stage: the parts list (SBOM) of an image as CycloneDX 1.6 JSON, checked against its schema.

    sbom.py NAME VERSION REVISION REPORTS OUTPUT

Read is what is there, not what was asked for: the distributions in /opt/stlm and those of the Python below, the Debian
packages, and Python itself. pip's reports (REPORTS/*.json) add the sha256 of the very archives that were installed.
The stage has the same base as the image, so packages and interpreter are the image's.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

PYTHON = "/opt/stlm/bin/python"
PACKAGES = Path("/opt/stlm/lib/python3.11/site-packages")
_DPKG_FIELDS = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t${Homepage}\n"
_LICENSE = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
_LONGEST_LICENSE = 100  # characters; what is longer is no name


def main(name: str, version: str, revision: str, reports: Path, output: Path) -> None:
    """Write the parts list of image ``name`` to ``output``; ends with an error if the schema does not allow it."""
    listed = _distributions(PYTHON)
    base = _distributions(_interpreter_below())
    known = {component["purl"] for component in listed["components"]}
    below = [component for component in base["components"] if component["purl"] not in known]
    _add_hashes(listed["components"], reports)
    _add_own_lists(listed["components"])
    components = [*listed["components"], *below, _python(), *_debian_packages()]
    root = {
        "type": "container",
        "bom-ref": name,
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "properties": [{"name": "org.opencontainers.image.revision", "value": revision}],
    }
    needs = {entry["ref"]: entry.get("dependsOn", []) for bom in (base, listed) for entry in bom["dependencies"]}
    references = {component["bom-ref"] for component in components}
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root, "tools": listed["metadata"]["tools"]},
        "components": sorted(components, key=lambda component: component["bom-ref"]),
        "dependencies": [
            {"ref": name, "dependsOn": sorted(references)},
            *({"ref": ref, "dependsOn": needs[ref]} for ref in sorted(references & needs.keys())),
        ],
    }
    text = json.dumps(bom, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    error = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"sbom.py: {name}: not valid CycloneDX: {error}")
    output.write_text(text, encoding="utf-8")


def _interpreter_below() -> str:
    return _run([PYTHON, "-c", "import sys; print(sys._base_executable)"]).strip()


def _distributions(python: str) -> dict[str, Any]:
    """What is installed for that interpreter, with licences as the packages declare them."""
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--output-reproducible"]
    tool += ["--no-validate"]  # the whole is validated, once
    bom: dict[str, Any] = json.loads(_run([*tool, python]))
    return bom


def _add_hashes(components: list[dict[str, Any]], reports: Path) -> None:
    """sha256 of the archive that each distribution was installed from."""
    hashes: dict[str, str] = {}
    for report in sorted(reports.glob("*.json")):
        for installed in json.loads(report.read_text(encoding="utf-8"))["install"]:
            archive = installed["download_info"].get("archive_info", {}).get("hashes", {})
            if "sha256" in archive:
                hashes[_normal(installed["metadata"]["name"])] = archive["sha256"]
    for component in components:
        if digest := hashes.get(_normal(component["name"])):
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]


def _add_own_lists(components: list[dict[str, Any]]) -> None:
    """Lists that packages bring of what was compiled into them (PEP 770), Rust crates for example: where they lie."""
    for path in sorted(PACKAGES.glob("*.dist-info/sboms/*.json")):
        package = _normal(path.parent.parent.name.partition("-")[0])
        for component in components:
            if _normal(component["name"]) == package:
                component.setdefault("externalReferences", []).append({"type": "bom", "url": path.as_uri()})


def _python() -> dict[str, Any]:
    version = _run([PYTHON, "-c", "import platform; print(platform.python_version())"]).strip()
    return {
        "type": "platform",
        "bom-ref": f"cpython {version}",
        "name": "cpython",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
        "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
        "externalReferences": [{"type": "website", "url": "https://www.python.org/"}],
    }


def _debian_packages() -> Iterator[dict[str, Any]]:
    distro = f"debian-{platform.freedesktop_os_release()['VERSION_ID']}"
    for line in _run(["dpkg-query", "--show", f"--showformat={_DPKG_FIELDS}"]).splitlines():
        status, name, version, architecture, source, homepage = line.split("\t")
        if status != "installed":
            continue
        licenses = _debian_licenses(name)
        yield {
            "type": "library",
            "bom-ref": f"deb {name} {version} {architecture}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro={distro}",
            **({"licenses": [{"license": {"name": license_}} for license_ in licenses]} if licenses else {}),
            **({"externalReferences": [{"type": "website", "url": homepage}]} if homepage else {}),
            "properties": [{"name": "debian:source", "value": source}],
        }


def _debian_licenses(package: str) -> list[str]:
    try:
        return licenses_in(Path("/usr/share/doc", package, "copyright").read_text(encoding="utf-8", errors="replace"))
    except OSError:  # images without documentation
        return []


def licenses_in(text: str) -> list[str]:
    """Names of licences in a Debian copyright file; none if it is not in the form that machines can read (DEP 5)."""
    if not text.lstrip().startswith("Format:"):
        return []
    names = {found.strip() for found in _LICENSE.findall(text)}
    return sorted(name for name in names if len(name) <= _LONGEST_LICENSE)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
