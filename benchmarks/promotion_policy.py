"""What the promotion gate does to challengers whose true worth is known.

    python benchmarks/promotion_policy.py [--trials 200] [--json FILE]

Good and defective parts have normal scores (in logits); the champion's image AUROC is 0.95. The challenger's defects
lie lower by as much as makes its true AUROC equal, 1, 3 or 5 points worse, or 2 better; the two models' noise on the
same image correlates by 0.95 or 0.8, as of two trainings on the same data, or is the same (the same model again).
Thresholds leave 5 % of good parts rejected in truth. Shares of decisions in percent; AUPRO is left out, because no maps
are made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from stlm_core.evaluation.evidence import Evidence
from stlm_core.promote_settings import PromoteConfig
from stlm_core.promotion.candidate import Candidate
from stlm_core.promotion.gate import decide

CHAMPION_AUROC = 0.95
OUTCOMES = ("promote", "keep", "needs-human")


def separation(auroc: float) -> float:
    """Distance of the means of two unit normals with that AUROC."""
    return statistics.NormalDist().inv_cdf(auroc) * 2**0.5


def evidence(logits: np.ndarray, labels: np.ndarray) -> Evidence:
    """Scores of one model without maps; 0.5 is where 5 % of good parts are rejected."""
    number = len(logits)
    threshold = statistics.NormalDist().inv_cdf(0.95)
    kinds = np.where(labels == 0, "good", np.array([f"type {index % 5}" for index in range(number)]))
    scores = (1 / (1 + np.exp(threshold - logits))).astype(np.float32)
    return Evidence(
        paths=np.array([f"{index}" for index in range(number)]),
        sha256=np.array([f"{index:064d}" for index in range(number)]),
        groups=np.array([""] * number),
        labels=labels,
        defect_types=kinds,
        scores=scores,
        rejected=logits > threshold,
        thresholds=np.zeros(1),
        false_positives=np.zeros((number, 1), dtype=np.uint32),
        normal_pixels=np.zeros(number, dtype=np.int64),
        overlap=np.zeros((number, 1), dtype=np.float32),
        regions=np.zeros(number, dtype=np.int32),
    )


def trial(rng: np.random.Generator, images: int, loss: float, alike: float, policy: PromoteConfig) -> str:
    """One champion, one challenger, ``images`` good and as many defective test images."""
    labels = np.repeat([0, 1], images).astype(np.int8)
    shared = rng.normal(size=2 * images)
    candidates = []
    for version, auroc in ((2, CHAMPION_AUROC - loss), (1, CHAMPION_AUROC)):
        own = rng.normal(size=2 * images)
        noise = alike**0.5 * shared + (1 - alike) ** 0.5 * own
        logits = labels * separation(auroc) + noise
        candidates.append(
            Candidate(version, {"image_auroc": 0.9}, "", True, 1.0, 1.0, evidence=evidence(logits, labels))
        )
    return decide(candidates[0], candidates[1], policy).outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    began = time.perf_counter()
    print("| challenger | alike | 20 + 20 images | 60 + 60 | 200 + 200 | 600 + 600 |\n|---|---|---|---|---|---|")
    cases = [("the same model", 0.0, 1.0)]
    losses = {"2 points better": -0.02, "equally good": 0.0, "1 point worse": 0.01, "3 worse": 0.03, "5 worse": 0.05}
    cases += [(name, loss, alike) for alike in (0.95, 0.8) for name, loss in losses.items()]
    for name, loss, alike in cases:
        cells = []
        for images in (20, 60, 200, 600):
            rng = np.random.default_rng(images)
            found = [trial(rng, images, loss, alike, PromoteConfig()) for _ in range(arguments.trials)]
            shares = {outcome: found.count(outcome) / arguments.trials for outcome in OUTCOMES}
            rows.append({"challenger": name, "alike": alike, "images": images, **shares})
            cells.append(" / ".join(f"{100 * shares[outcome]:.0f}" for outcome in OUTCOMES))
        print(f"| {name} | {alike} | {' | '.join(cells)} |", flush=True)
    print(f"\npromote / keep / a person decides, percent of {arguments.trials}; {time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
