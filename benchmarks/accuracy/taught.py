"""The same decoder taught with real defects instead of pseudo anomalies: what the teacher's features would allow.

The parts of the test split are divided in two. The decoder of a finished detector starts anew and learns the masks of
one half, beside the good images, and is measured on the other; then the other way round. It has seen defects, so its
figures are no result: they say whether a figure that is missed is missed for the teacher's features, or for not
knowing what the line's defects look like. The memory is not asked, as it knows nothing of defects; the detector as it
is and its decoder alone are measured on the same halves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy.figures import detector_figures
from benchmarks.accuracy.lines import PROFILES, Line, load_pair, validated
from benchmarks.accuracy.table import markdown, percent
from stlm_core.data.images import resize_to
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.models.detector import Detector, MapSource, load_detector
from stlm_core.models.pyramid_decoder import PyramidDecoder
from stlm_core.seeding import derive_rng
from stlm_core.steps.training import to_device
from stlm_core.training.loop import SELECTION, run_loop
from stlm_core.training.losses import aggregation_loss, mask_to_grid
from stlm_core.training.optimisation import build_optimiser, pick_device
from stlm_core.training_settings import FaConfig

STEPS = 400
_BATCH = 8  # half of them defective
_FA = FaConfig(**PROFILES["fast"]["fa"])
_AS_IT_IS, _ALONE, _TAUGHT = "detector as it is", "its decoder alone", "its decoder alone, taught with real defects"
_COLUMNS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro_30": "AUPRO@0.3"}
Lesson = tuple[Tensor, Tensor]  # image uint8 (S, S, 3) and its mask (S/2, S/2), 0 or 1
Half = Sequence[ManifestRow]


def run_taught(results: Path, line: Line, model: Path, top_pixels: int, seed: int, steps: int = STEPS) -> str:
    """Measure the detector as it is, its decoder alone, and this decoder taught with the real defects of other parts.

    All are measured half by half, and the mean of the two halves is told. Writes ``taught-<line>.json`` and ``.md``;
    returns the latter's text. ``model``: ``detector.safetensors`` of ``train-fa``, without what ``evaluate`` adds to
    its memory.

    Raises:
        UserError: the file is no detector of this project, or has no decoder; the line's defects have no masks, or are
            all of one part.
    """
    if not isinstance(load_detector(model).aggregation, PyramidDecoder):
        raise UserError(f"{model}: this detector has no decoder; `model.aggregation` of its line was not `decoder`")
    manifest = validated(results, line)
    halves = divide(manifest.test(), seed)
    found: dict[str, list[dict[str, float]]] = {_AS_IT_IS: [], _ALONE: [], _TAUGHT: []}
    sources: dict[str, MapSource] = {_AS_IT_IS: "fa", _ALONE: "fa-alone"}
    for learned, measured in (halves, halves[::-1]):
        for name, source in sources.items():
            shipped = load_detector(model, top_pixels, source).to(pick_device())
            found[name].append(detector_figures(shipped, manifest, measured))
        detector = load_detector(model, top_pixels, "fa-alone")
        teach(detector, _lessons(detector, manifest, [*manifest.train(), *learned]), seed, steps)
        found[_TAUGHT].append(detector_figures(detector, manifest, measured))
    content = {"line": line.name, "seed": seed, "steps": steps, "halves": found}
    told = to_markdown({name: _mean(figures) for name, figures in found.items()})
    write_bytes_atomic(results / f"taught-{line.name}.json", (json.dumps(content, indent=2) + "\n").encode())
    write_bytes_atomic(results / f"taught-{line.name}.md", told.encode())
    return told


def divide(test: Sequence[ManifestRow], seed: int) -> tuple[Half, Half]:
    """The test images in two halves that share no part, an image without one being its own; each defect type and the
    good images are divided as evenly as parts allow.

    Raises:
        UserError: a defective image has no mask, or a half would have no good or no defective image.
    """
    if lacking := [row.path for row in test if row.label and not row.mask_path]:
        raise UserError(f"{lacking[0]}: has no mask, and real defects are taught by their masks")
    kinds: dict[str, str] = {}
    for row in sorted(test, key=lambda row: row.label):  # a part that shows a defect counts as one of these
        kinds[row.group or row.path] = row.defect_type
    first: set[str] = set()
    rng = derive_rng("taught", seed)
    for number, kind in enumerate(sorted(set(kinds.values()))):
        parts = sorted(part for part, own in kinds.items() if own == kind)
        chosen = rng.permutation(len(parts))[: (len(parts) + number % 2) // 2]
        first.update(parts[place] for place in chosen)
    one = [row for row in test if (row.group or row.path) in first]
    other = [row for row in test if (row.group or row.path) not in first]
    if any({row.label for row in half} != {0, 1} for half in (one, other)):
        raise UserError(
            "the test images cannot be divided: both halves need good and defective images of parts of their own"
        )
    return one, other


class _Teaching:
    """The task of :func:`~stlm_core.training.loop.run_loop`: a decoder's weights alone are trained."""

    def __init__(self, detector: Detector, lessons: tuple[list[Lesson], list[Lesson]], seed: int) -> None:
        self.module, self._lessons, self._seed = detector, lessons, seed
        detector.streams.requires_grad_(False)
        self.optimiser = build_optimiser(_FA.optimiser, [(detector.aggregation.parameters(), _FA.optimiser.lr)])

    def train_mode(self) -> None:
        self.module.train()
        self.module.streams.eval()

    def losses(self, step: int) -> dict[str, Tensor]:
        images, masks = _batch(self._lessons, derive_rng("taught batch", self._seed, step))
        seen = self.module.preprocess(images.to(pick_device()))
        logits = self.module.aggregation(self.module.streams(seen))
        return {"total": aggregation_loss(logits, masks.to(logits.device), _FA)}

    def validate(self) -> dict[str, float]:
        return {SELECTION: 0.0}  # nothing is chosen: the last weights are kept


def teach(detector: Detector, lessons: tuple[list[Lesson], list[Lesson]], seed: int, steps: int) -> None:
    """Train a new decoder for ``detector`` on good and defective ``lessons``, in batches of as many of both, each
    mirrored and turned by quarters at random; leaves it in eval mode."""
    device = pick_device()
    torch.manual_seed(seed)
    detector.aggregation = PyramidDecoder(detector.facts.denoising)
    settings = _FA.model_copy(update={"steps": steps, "validate_every": steps, "checkpoint_every": steps})
    with tempfile.TemporaryDirectory() as folder:
        run_loop(_Teaching(to_device(detector, device), lessons, seed), "teach", settings, Path(folder), device)
    detector.eval()


def to_markdown(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table, in percent."""
    body = [[name, *(percent(figures.get(column)) for column in _COLUMNS)] for name, figures in found.items()]
    return markdown(["what", *_COLUMNS.values()], body)


def _lessons(detector: Detector, manifest: Manifest, rows: Half) -> tuple[list[Lesson], list[Lesson]]:
    lessons: tuple[list[Lesson], list[Lesson]] = ([], [])
    side, covered = detector.facts.size, PyramidDecoder.covered
    for row in rows:
        image, mask = load_pair(manifest, row)
        marked = torch.from_numpy(np.zeros(image.shape[:2], np.uint8) if mask is None else mask.view(np.uint8))
        grid = mask_to_grid(marked[None], side // 2, side // 2, covered)[0]
        lessons[row.label].append((torch.from_numpy(resize_to(image, side)), grid))
    return lessons


def _batch(lessons: tuple[list[Lesson], list[Lesson]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    images, masks = [], []
    for kind in lessons:
        for place in rng.integers(len(kind), size=_BATCH // 2):
            quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            image, mask = (torch.rot90(one, quarters) for one in kind[int(place)])
            images.append(image.flip(1) if mirrored else image)
            masks.append(mask.flip(1) if mirrored else mask)
    return torch.stack(images), torch.stack(masks)


def _mean(halves: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the figures that both halves have."""
    return {
        name: float(np.mean([half[name] for half in halves])) for name in _COLUMNS if all(name in h for h in halves)
    }
