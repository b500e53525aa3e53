"""The contenders of metrics_speed.py: this project's pixel metrics, references and peers. One of them a process.

    python benchmarks/metrics_contenders.py NAME maps FOLDER            (maps.npy and masks.npy in FOLDER)
    python benchmarks/metrics_contenders.py NAME stream IMAGES SIDE     (maps made one by one, only the metric timed)

Started by metrics_speed.py with the interpreter that has the package; prints one line of JSON. At the top only what
every interpreter has: NumPy and OpenCV.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from measure import forget_peak, resident_mib

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Values = dict[str, float | None]


def make_map(number: int, side: int) -> tuple[Map, Mask]:
    """Image ``number``: a map (side, side) in [0, 1], smooth with grain; every second one has about a dozen regions."""
    rng = np.random.default_rng([0, number])
    noise = cv2.GaussianBlur(rng.standard_normal((side, side), dtype=np.float32), (0, 0), side / 64)
    noise /= noise.std()
    if number % 2:
        np.minimum(noise, 1, out=noise)  # a good image
    mask = noise > 2
    evidence = noise + rng.standard_normal((side, side), dtype=np.float32) - 3
    return 1 / (1 + np.exp(-evidence)), mask


class Accumulator(Protocol):
    """Sees the images one by one."""

    def update(self, anomaly_map: Map, mask: Mask) -> None:
        """Add one image."""

    def values(self) -> Values:
        """The metrics of everything seen."""


class Ours:
    """All metrics of the project; an image's score is the maximum of its map."""

    def __init__(self, exact: bool = False) -> None:
        from stlm_core.evaluation.metrics import pixel_accumulator

        self._pixels = pixel_accumulator(exact)
        self._labels: list[bool] = []
        self._scores: list[float] = []

    def update(self, anomaly_map: Map, mask: Mask) -> None:
        """Add one image."""
        self._pixels.update(anomaly_map, mask)
        self._labels.append(bool(mask.any()))
        self._scores.append(float(anomaly_map.max()))

    def values(self) -> Values:
        """Seven metrics."""
        from stlm_core.evaluation.metrics import aupro, average_precision, f1_max, image_ap, image_auroc, ranking_auroc

        counts = self._pixels.counts()
        best = f1_max(counts)
        return {
            "image_auroc": image_auroc(self._labels, self._scores),
            "image_ap": image_ap(self._labels, self._scores),
            "pixel_auroc": ranking_auroc(counts),
            "pixel_ap": average_precision(counts),
            "pixel_f1_max": best[0] if best else None,
            "aupro_30": aupro(counts, 0.3),
            "aupro_05": aupro(counts, 0.05),
        }


class Adeval:
    """adeval's accumulator of 1,000 bins, told that scores lie in [0, 1]."""

    def __init__(self) -> None:
        _restore_trapz()
        from adeval import EvalAccumulator

        self._accumulator = EvalAccumulator(0.0, 1.0)

    def update(self, anomaly_map: Map, mask: Mask) -> None:
        """Add one image."""
        self._accumulator.add_anomap(anomaly_map, mask.view(np.uint8))
        self._accumulator.add_image(float(anomaly_map.max()), int(mask.any()))

    def values(self) -> Values:
        """Five metrics; its AP is the trapezoid, not the step-wise sum."""
        found = self._accumulator.summary()
        names = {"image_auroc": "i_auroc", "image_ap": "i_aupr", "pixel_auroc": "p_auroc", "pixel_ap": "p_aupr"}
        return {ours: found[theirs] for ours, theirs in {**names, "aupro_30": "p_aupro"}.items()}


STREAMS: dict[str, Callable[[], Accumulator]] = {"stlm": Ours, "stlm-exact": lambda: Ours(exact=True), "adeval": Adeval}


def adeval_in_one_call(maps: Map, masks: Mask) -> Values:
    """adeval's function over everything: the bins span the scores found, which costs a pass of its own."""
    _restore_trapz()
    from adeval import auroc_aupr_aupro

    auroc, ap, pro = auroc_aupr_aupro(maps, masks.view(np.uint8))
    return {"pixel_auroc": auroc, "pixel_ap": ap, "aupro_30": pro}


def sklearn_ranking(maps: Map, masks: Mask) -> Values:
    """scikit-learn's AUROC and average precision."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, scores = masks.ravel(), maps.ravel()
    return {
        "pixel_auroc": float(roc_auc_score(truth, scores)),
        "pixel_ap": float(average_precision_score(truth, scores)),
    }


def sorted_aupro(maps: Map, masks: Mask) -> Values:
    """AUPRO from all scores sorted, written without the project's code."""
    from scipy import ndimage

    false = ~masks
    share = np.zeros(maps.shape, dtype=np.float64)
    regions = 0
    for number, mask in enumerate(masks):
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=found + 1)
        share[number][mask] = 1 / areas[labels[mask]]
        regions += found
    order = np.argsort(maps.ravel())[::-1]
    scores = maps.ravel()[order]
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    fpr = np.append(0, np.cumsum(false.ravel()[order])[last_of_ties] / false.sum())
    pro = np.append(0, np.cumsum(share.ravel()[order])[last_of_ties] / regions)
    values: Values = {}
    for name, limit in (("aupro_30", 0.3), ("aupro_05", 0.05)):
        inside = fpr <= limit
        x, y = np.append(fpr[inside], limit), np.append(pro[inside], np.interp(limit, fpr, pro))
        values[name] = float(np.trapezoid(y, x) / limit)
    return values


def anomalib_aupro(maps: Map, masks: Mask) -> Values:
    """anomalib's AUPRO: every score sorted, in float32."""
    import torch

    metric = _anomalib_aupro_class()(fpr_limit=0.3)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metric.update(torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask.view(np.uint8))[None])
    return {"aupro_30": float(metric.compute())}


def pyaupro_exact(maps: Map, masks: Mask) -> Values:
    """pyaupro's exact AUPRO."""
    import torch
    from pyaupro import PerRegionOverlap, auc_compute

    metric = PerRegionOverlap(thresholds=None)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks.view(np.uint8)))
    return {"aupro_30": float(auc_compute(*metric.compute(), limit=0.3, reorder=True))}


def torchmetrics_ranking(maps: Map, masks: Mask) -> Values:
    """torchmetrics' exact AUROC and average precision."""
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    scores, truth = torch.from_numpy(maps).ravel(), torch.from_numpy(masks.view(np.uint8)).ravel().int()
    return {
        "pixel_auroc": float(binary_auroc(scores, truth)),
        "pixel_ap": float(binary_average_precision(scores, truth)),
    }


def _shown_to(make: Callable[[], Accumulator]) -> Callable[[Map, Mask], Values]:
    def run(maps: Map, masks: Mask) -> Values:
        accumulator = make()
        for anomaly_map, mask in zip(maps, masks, strict=True):
            accumulator.update(anomaly_map, mask)
        return accumulator.values()

    return run


CONTENDERS: dict[str, Callable[[Map, Mask], Values]] = {
    **{name: _shown_to(make) for name, make in STREAMS.items()},
    "adeval-one-call": adeval_in_one_call,
    "sklearn": sklearn_ranking,
    "sorted": sorted_aupro,
    "anomalib": anomalib_aupro,
    "pyaupro": pyaupro_exact,
    "torchmetrics": torchmetrics_ranking,
}


def _restore_trapz() -> None:
    # adeval 1.1 calls it by the name that numpy 2.4 has dropped.
    np.trapz = np.trapezoid  # type: ignore[attr-defined]


@cache
def _anomalib_aupro_class() -> Any:
    """The metric's module alone: `import anomalib` brings data modules, models and torchvision, which it needs not.

    Stood in for: packages whose ``__init__`` would import all that, a class for annotations, and kornia's labelling,
    which is used on a GPU only.
    """
    found = importlib.util.find_spec("anomalib")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'anomalib'", name="anomalib")
    root = Path(found.origin).parent
    for name in ("anomalib", "anomalib.metrics", "anomalib.utils", "anomalib.data", "kornia", "kornia.contrib"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules.setdefault(name, module)
    sys.modules["anomalib.data"].Batch = object  # type: ignore[attr-defined]
    sys.modules["kornia.contrib"].connected_components = None  # type: ignore[attr-defined]
    from anomalib.metrics.aupro import _AUPRO

    return _AUPRO


def over_maps(name: str, folder: Path) -> dict[str, Any]:
    """Seconds, and what the process grew by at most, over maps that are in memory already."""
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    CONTENDERS[name](maps[:2], masks[:2])  # imports
    forget_peak()
    before = resident_mib()
    began = time.perf_counter()
    values = CONTENDERS[name](maps, masks)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "extra_mib": resident_mib("VmHWM") - before, **values}


def over_stream(name: str, images: int, side: int) -> dict[str, Any]:
    """Seconds without those that the maps took to make, and the peak of the whole process."""
    accumulator = STREAMS[name]()
    pairs: Iterable[tuple[Map, Mask]] = (make_map(number, side) for number in range(images))
    seconds = 0.0
    for anomaly_map, mask in pairs:
        began = time.perf_counter()
        accumulator.update(anomaly_map, mask)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    values = accumulator.values()
    seconds += time.perf_counter() - began
    return {"seconds": seconds, "peak_mib": resident_mib("VmHWM"), **values}


def main() -> None:
    """Run one contender; one that is not installed prints null."""
    name, mode, *rest = sys.argv[1:]
    cv2.setNumThreads(1)
    try:
        result = over_maps(name, Path(rest[0])) if mode == "maps" else over_stream(name, int(rest[0]), int(rest[1]))
    except ModuleNotFoundError:
        print("null")
        return
    print(json.dumps(result))


if __name__ == "__main__":
    main()
