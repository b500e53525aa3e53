"""Which test images two versions have in common, and whether they are enough to compare by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.evidence import Evidence, StrArray
from stlm_core.evaluation.predictions import GOOD
from stlm_core.promote_settings import PromoteConfig


@dataclass(frozen=True)
class Common:
    """The images that two versions were both tested on, in one order. ``warnings``: what was left out, and why.
    ``defects_known``: whether either of them was tested on any defective image. ``complete``: whether these are all
    test images of the challenger.
    """

    challenger: Evidence
    champion: Evidence
    warnings: tuple[str, ...]
    defects_known: bool
    complete: bool

    @property
    def good(self) -> int:
        """How many good parts they show; photographs of one part are no two parts."""
        return _parts(self.challenger, 0)

    @property
    def anomalous(self) -> int:
        """How many defective parts they show."""
        return _parts(self.challenger, 1)

    def enough(self, policy: PromoteConfig) -> bool:
        """Whether they can say anything. A line without any defects is compared by its good images."""
        defects = self.anomalous >= policy.min_common_defects or not self.defects_known
        return self.good >= policy.min_common_good and defects


def common_images(challenger: Evidence, champion: Evidence) -> Common:
    """Pair two evaluations by the hash of the image file; the same image twice counts once.

    An image that has another label now is left out: which of the two is right is not for a comparison to say. Where
    only its mask is another, it is left out at pixel level. Swapping the two swaps the result.
    """
    once = [distinct(evidence.take(np.flatnonzero(evidence.sha256 != ""))) for evidence in (challenger, champion)]
    _, of_new, of_old = np.intersect1d(once[0].sha256, once[1].sha256, assume_unique=True, return_indices=True)
    new, old = once[0].take(of_new), once[1].take(of_old)
    same = new.labels == old.labels
    warnings = []
    if not same.all():
        warnings.append(f"{int((~same).sum())} test images have another label than at the champion's test: left out")
    if len(new) < len(once[0]):
        warnings.append(
            f"{len(new)} of {len(once[0])} test images were among the champion's, too: only these are compared"
        )
    new, old = new.take(np.flatnonzero(same)), old.take(np.flatnonzero(same))
    redrawn = (new.regions != old.regions) | (new.normal_pixels != old.normal_pixels)
    if redrawn.any():
        warnings.append(f"{int(redrawn.sum())} test images have another mask now: not compared at pixel level")
        new, old = _without_pixels(new, redrawn), _without_pixels(old, redrawn)
    # Type and part as one of the two has them, whichever is asked first.
    shared = {
        "defect_types": np.where(new.labels == 0, GOOD, _larger(new.defect_types, old.defect_types)),
        "groups": _larger(new.groups, old.groups),
    }
    defects_known = any(side.labels.any() for side in once)
    complete = len(new) == len(once[0])
    return Common(replace(new, **shared), replace(old, **shared), tuple(warnings), defects_known, complete)


def distinct(evidence: Evidence) -> Evidence:
    """Every image file once, whatever the order of the images; files that are there as good and as defective not at
    all. An image without a hash is a file of its own.
    """
    identity = np.where(evidence.sha256 == "", evidence.paths, evidence.sha256)
    order = np.lexsort((evidence.paths, identity))
    _, first, file = np.unique(identity[order], return_index=True, return_inverse=True)
    labels = evidence.labels[order]
    contradicted = np.zeros(len(first), dtype=bool)
    contradicted[file[labels != labels[first][file]]] = True
    return evidence.take(order[first[~contradicted]])


def _without_pixels(evidence: Evidence, images: npt.NDArray[np.bool_]) -> Evidence:
    kept = ~images
    return replace(
        evidence,
        false_positives=evidence.false_positives * kept[:, None],
        normal_pixels=evidence.normal_pixels * kept,
        overlap=evidence.overlap * kept[:, None],
        regions=evidence.regions * kept,
    )


def _parts(evidence: Evidence, label: int) -> int:
    groups = evidence.groups[evidence.labels == label]
    return int((groups == "").sum()) + len(np.unique(groups[groups != ""]))


def _larger(left: StrArray, right: StrArray) -> StrArray:
    return np.where(left > right, left, right)
