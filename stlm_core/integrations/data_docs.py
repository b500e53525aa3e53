"""The front page of Data Docs: verdict, counts, and every broken rule with pictures of the images at fault."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stlm_core.config import LineConfig
from stlm_core.data.images import mask_files, read_image
from stlm_core.data.manifest import SPLITS
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.integrations.expectation_rules import Level, RuleResult, ValidationReport
from stlm_core.integrations.expectation_table import Finding, Findings

FRONT_PAGE = "index.html"
_SHOWN = 24  # pictures a rule
_NAMED = 200  # images a rule lists by name below them
_SIDE = 160  # pixels, the longer side of a picture
_TONES: dict[Level, str] = {"fail": "bad", "warn": "warn", "info": "neutral"}
_WORDS: dict[Level, str] = {"fail": "Stops the line", "warn": "Warning", "info": "For information"}


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture as a data URI, or "" and why there is none."""

    path: str
    uri: str
    missing: str


@dataclass(frozen=True, slots=True)
class _Tile:
    """An image at fault, with the other image or mask that it is about, if any."""

    finding: Finding
    pictures: tuple[_Picture, ...]


@dataclass(frozen=True, slots=True)
class _Broken:
    """A broken rule as the page shows it. ``more``: findings without a picture; ``unnamed``: those not even named."""

    rule: RuleResult
    tone: str
    word: str
    title: str
    tiles: tuple[_Tile, ...]
    more: tuple[Finding, ...]
    unnamed: int


def write_front_page(docs: Path, config: LineConfig, root: Path, findings: Findings, report: ValidationReport) -> None:
    """Write ``index.html`` into ``docs``, over the list of pages that Great Expectations put there.

    One file, with pictures of at most 160 pixels inside it; links lead to the pages beside it.

    Args:
        root: folder that the images' paths start from.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stlm_core.integrations", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = sorted(page.relative_to(docs) for page in docs.rglob("*.html") if page.parent != docs)
    album = _Album(root, config.data.max_pixels, findings)
    broken = (*report.failures(), *report.warnings(), *report.notes())
    text = environment.get_template("data_docs.html.j2").render(
        line=config.name,
        tone="bad" if not report.success else "warn" if report.warnings() else "good",
        verdict=verdict(report),
        reason=headline(report),
        counts=_counts(findings),
        broken=[album.page_of(rule) for rule in broken],
        drift=findings.drift,
        limits=config.validate_,
        kept=[rule for rule in report.rules if rule.success],
        results=[page.as_posix() for page in pages if page.parts[0] == "validations"],
        suites=[page.as_posix() for page in pages if page.parts[0] == "expectations"],
    )
    write_bytes_atomic(docs / FRONT_PAGE, text.encode())


def verdict(report: ValidationReport) -> str:
    """A few words: failed, passed, or passed with warnings."""
    if not report.success:
        return "Failed"
    warnings = len(report.warnings())
    return f"Passed with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else "Passed"


def headline(report: ValidationReport) -> str:
    """One sentence: what is wrong, the most important first."""
    broken = report.failures() or report.warnings()
    if not broken:
        return "Every rule holds."
    sentence = "; ".join(rule.breach for rule in broken) + "."
    return sentence[0].upper() + sentence[1:]


def _counts(findings: Findings) -> list[tuple[str, int, str]]:
    """(what, how many, tone) for the row of numbers at the top."""
    usable = [row for row in findings.kept if not row.problem]
    splits = Counter(row.split for row in usable)
    defects = sum(row.label for row in usable)
    unreadable = len(findings.kept) - len(usable)
    left_out = len(findings.rows) - len(findings.kept)
    counts = [(split, splits[split], "") for split in SPLITS[:-1]]
    counts += [("test, good", splits["test"] - defects, ""), ("test, defective", defects, "")]
    counts.append(("unreadable", unreadable, "bad" if unreadable else ""))
    counts.append(("in quarantine", left_out, "warn" if left_out else ""))
    return counts


class _Album:
    """Pictures of a line's images, each made once."""

    def __init__(self, root: Path, max_pixels: int, findings: Findings) -> None:
        self.root = root
        self.max_pixels = max_pixels
        self.problems = {row.path for row in findings.rows if row.problem}
        self.made: dict[str, _Picture] = {}

    def page_of(self, rule: RuleResult) -> _Broken:
        findings = _each_pair_once(rule.findings)
        return _Broken(
            rule,
            _TONES[rule.level],
            _WORDS[rule.level],
            rule.breach[0].upper() + rule.breach[1:],
            tuple(_Tile(finding, self._pictures(finding)) for finding in findings[:_SHOWN]),
            findings[_SHOWN : _SHOWN + _NAMED],
            max(0, len(findings) - _SHOWN - _NAMED),
        )

    def _pictures(self, finding: Finding) -> tuple[_Picture, ...]:
        return tuple(self._picture(path) for path in (finding.path, finding.other) if path)

    def _picture(self, path: str) -> _Picture:
        if path not in self.made:
            self.made[path] = self._make(path)
        return self.made[path]

    def _make(self, path: str) -> _Picture:
        # A problem of a name or link is one of this picture too: such a file is never opened.
        if path in self.problems:
            return _Picture(path, "", "no picture: cannot be read")
        try:
            file = mask_files(self.root / path)[0]
            return _Picture(path, _data_uri(read_image(file, self.max_pixels)), "")
        except UserError:
            return _Picture(path, "", "no picture: cannot be read")


def _each_pair_once(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Two images that find each other are one thing to look at."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for finding in findings:
        if (finding.other, finding.path) not in seen:
            seen.add((finding.path, finding.other))
            kept.append(finding)
    return tuple(kept)


def _data_uri(image: NDArray[np.uint8]) -> str:
    small = Image.fromarray(image)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
