"""Too few held-back images for the budget: what the threshold rejects, drawn from finished evaluations.

    python -m benchmarks.few_held_back outputs/bottle/evaluate outputs/screw/evaluate

Of the good images of an evaluation, held-back and test together, a few are drawn for the threshold and the rest are
what comes later, again and again. Two rules: the largest of the few, and ``fit_operating_point`` (decision 0026).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.accuracy.table import markdown
from stlm_core.errors import UserError
from stlm_core.evaluation.operating_point import fit_operating_point

COUNTS = (3, 4, 6, 8, 12, 16, 19)
_FEWEST_LEFT = 10

Scores = npt.NDArray[np.float64]


def drawn(good: Scores, defective: Scores, count: int, budget: float, draws: int, seed: int) -> dict[str, float]:
    """Mean false rejects and recall of both rules over ``draws`` draws of ``count`` of the raw scores ``good`` (n,)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = rng.permutation(good)
        few, later = order[:count], order[count:]
        for threshold in (few.max(), fit_operating_point(few, budget).raw_threshold):
            found += [(later > threshold).mean(), (defective > threshold).mean()]
    names = ("largest_false_rejects", "largest_recall", "shipped_false_rejects", "shipped_recall")
    return dict(zip(names, np.reshape(found, (draws, 4)).mean(axis=0).tolist(), strict=True))


def main() -> None:
    """Print a table an evaluation, write the JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("evaluations", type=Path, nargs="+", help="output folders of `stlm evaluate`")
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    content = {}
    for folder in options.evaluations:
        try:
            held_back, images = (pd.read_csv(folder / f"{name}.csv") for name in ("calibration", "images"))
        except OSError as error:
            raise SystemExit(str(UserError(f"{folder}: not an output of `stlm evaluate`: {error}"))) from None
        good = np.concatenate([held_back["raw_score"], images.loc[images["label"] == 0, "raw_score"]])
        defective = images.loc[images["label"] == 1, "raw_score"].to_numpy()
        counts = [count for count in COUNTS if count + _FEWEST_LEFT <= len(good)]
        found = {count: drawn(good, defective, count, options.budget, options.draws, options.seed) for count in counts}
        content[str(folder)] = found
        rows = [[str(count), *(f"{100 * value:.1f}" for value in figures.values())] for count, figures in found.items()]
        head = ["held back", "largest: false rejects", "recall", "as shipped: false rejects", "recall"]
        print(f"{folder}, {len(good)} good images, budget {options.budget:.1%}\n\n{markdown(head, rows)}")
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
