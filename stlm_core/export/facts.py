"""What an exported file says of itself: where it came from, what it was measured to do, whose data is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.data.manifest import Manifest
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.files import sha256_bytes
from stlm_core.models.detector import DetectorFacts, MapSource
from stlm_core.runtime.capture import CaptureRange
from stlm_core.runtime.model import FORMAT
from stlm_core.weights.catalog import CATALOG

CALIBRATED_THRESHOLD = 0.5
_NON_COMMERCIAL = re.compile(r"\bnc\b|\bnon.?commercial|\bresearch (use|only)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ExportFacts:
    """Everything the metadata and the model card repeat.

    ``dataset_sha256``: of all manifest rows; ``test_sha256``: of the test split's alone, so that two models measured on
    the same images are known as such whatever they were trained on. ``git_revision``: "" if not known.
    ``captures``: light and focus of ordinary pictures. ``start``: the catalogue's weights that a trained stream starts
    from, "" for the teacher's own or none. ``remembered_sha256``: of what the evaluation added to the memory, "" where
    it adds nothing.
    """

    line: str
    profile: str
    detector: DetectorFacts
    detector_sha256: str
    top_pixels: int
    map_source: MapSource
    operating_point: OperatingPoint
    metrics: Mapping[str, float]
    dataset_sha256: str
    test_sha256: str
    images: Mapping[str, int]
    data_license: str
    code_version: str
    git_revision: str
    captures: CaptureRange
    start: str = ""
    remembered_sha256: str = ""

    @property
    def teacher_license(self) -> str:
        """Licence of the teacher's weights with the data behind them."""
        if not self.teacher_known:
            return "not known: the weights are not those of the catalogue"
        return _terms(self.detector.teacher)

    @property
    def start_license(self) -> str:
        """Licence of the weights that a trained stream starts from, with the data behind them; "" for none."""
        return _terms(self.start) if self.start else ""

    @property
    def teacher_known(self) -> bool:
        """Whether the teacher's weights are the catalogue's of that name."""
        entry = CATALOG.get(self.detector.teacher)
        return entry is not None and entry.sha256 == self.detector.teacher_sha256

    @property
    def non_commercial(self) -> tuple[str, ...]:
        """Why the weights are not for commercial use; empty if nothing known speaks against it."""
        reasons = []
        if is_non_commercial(self.data_license):
            reasons.append(f"the line's images are under {self.data_license}")
        for role, name in (("the teacher", self.detector.teacher), ("the trained stream's start", self.start)):
            entry = CATALOG.get(name)
            if entry is not None and entry.non_commercial:
                reasons.append(f"{role} {entry.name} is under {entry.license}")
        return tuple(reasons)

    def metadata(self) -> dict[str, str]:
        """The file's key-value pairs. Nothing in them depends on the clock or the machine."""
        return {
            "stlm_format": FORMAT,
            "line": self.line,
            "profile": self.profile,
            "threshold": str(CALIBRATED_THRESHOLD),
            "raw_threshold": repr(self.operating_point.raw_threshold),
            "false_reject_budget": repr(self.operating_point.budget),
            "operating_point": json.dumps(self.operating_point.to_dict(), sort_keys=True),
            "metrics": json.dumps(dict(self.metrics), sort_keys=True),
            "image_size": str(self.detector.size),
            "rotation": self.detector.rotation,
            "top_pixels": str(self.top_pixels),
            "map_source": self.map_source,
            "teacher": self.detector.teacher,
            "teacher_sha256": self.detector.teacher_sha256,
            "teacher_license": self.teacher_license,
            "start": self.start,
            "start_license": self.start_license,
            "detector_sha256": self.detector_sha256,
            "remembered_sha256": self.remembered_sha256,
            "dataset_sha256": self.dataset_sha256,
            "test_sha256": self.test_sha256,
            "data_license": self.data_license,
            "non_commercial": "; ".join(self.non_commercial),
            "capture": self.captures.to_json(),
            "code_version": self.code_version,
            "git_revision": self.git_revision,
        }


def _terms(name: str) -> str:
    """Licence of the catalogue's weights of that name and the data behind them."""
    entry = CATALOG[name]
    return f"{entry.license}; trained on {entry.trained_on}"


def is_non_commercial(license_name: str) -> bool:
    """Whether a licence's name says that it forbids commercial use."""
    return _NON_COMMERCIAL.search(license_name) is not None


def digest_of_test_split(manifest: Manifest) -> str:
    """sha256 of the test split: content and label of every image, and which have masks; "" without test images."""
    rows = manifest.test()
    if not rows:
        return ""
    return sha256_bytes(
        "\n".join(f"{row.path}\0{row.sha256}\0{row.label}\0{row.defect_type}\0{row.mask_path}" for row in rows).encode()
    )
