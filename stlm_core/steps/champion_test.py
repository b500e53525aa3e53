"""The champion's exported file on the images of a challenger's test, where those are at hand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stlm_core.config import LineConfig
from stlm_core.errors import StlmError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.predictions import Prediction
from stlm_core.integrations.mlflow_registry import Registry, Version
from stlm_core.progress import progress
from stlm_core.runtime.model import DetectorSession
from stlm_core.steps.manifest_images import row_image, row_mask
from stlm_core.steps.workspace import Workspace

if TYPE_CHECKING:
    from stlm_core.data.manifest import Manifest, ManifestRow


def test_again(config: LineConfig, registry: Registry, version: Version, test_sha256: str) -> Evidence | None:
    """Evidence of a registered version on this project's test split.

    None unless the project's manifest has exactly the test split with that digest.

    Raises:
        UserError: a test image is gone or has changed.
        StlmError: the version's file is gone from the registry, or damaged.
    """
    path = Workspace(config.root / "outputs", config.name).folder("validate") / "manifest.parquet"
    if not test_sha256 or not path.is_file():
        return None
    # The image that promotes on a cluster has no images of the line, and none of what reads their manifest.
    from stlm_core.data.manifest import Manifest
    from stlm_core.export.facts import digest_of_test_split

    manifest = Manifest.read(path, config.resolve(config.data.path))
    if digest_of_test_split(manifest) != test_sha256:
        return None
    with tempfile.TemporaryDirectory() as folder:
        session = DetectorSession(registry.model_file(version, Path(folder)))
    collector = EvidenceCollector()
    rows = list(manifest.test())
    with progress(f"champion {version.number} on the new test images", len(rows)) as shown:
        for row in rows:
            _test(config, manifest, row, session, collector)
            shown.advance()
    return collector.build()


def _test(
    config: LineConfig, manifest: Manifest, row: ManifestRow, session: DetectorSession, collector: EvidenceCollector
) -> None:
    image = row_image(manifest, row, config.data.max_pixels)
    mask = row_mask(manifest, row, (image.shape[0], image.shape[1]), config.data.max_pixels)
    found = session.predict(image[None])
    score = float(found.scores[0])
    shown = Prediction(
        row.path, row.label, row.defect_type, score, found.anomaly_maps[0], mask, image, row.sha256, row.group
    )
    try:
        collector.add(shown, score, bool(found.is_anomalous[0]))
    except ValueError as error:
        raise StlmError(f"{row.path}: {error}") from None
