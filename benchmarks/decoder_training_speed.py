"""Cost of a step of `train-fa` in profile `fast`, part by part, and what might make it cheaper.

    python benchmarks/decoder_training_speed.py [--threads 2] [--rounds 7] [--compile] [--json FILE]

The profile's own settings for synthesis and loss, 256 px, a batch of 8, random weights, bfloat16 where the processor
has it. "data side" draws a batch: another pose, camera and anomaly of every image; in training that has a thread of its
own. "teacher" is the frozen plain stream over the batch, in float32. What might help is a step of its own; the ratio is
that of the medians to the step, and the contenders take turns.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml
from cache_speed import make_bank
from measure import surroundings, take_turns, write_json
from torch import Tensor
from training_speed import BATCH, CPU, IMAGES, SIZE, descend, read_options, told

from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.settings import SynthesizeConfig
from stlm_core.steps.training import to_device
from stlm_core.training.fresh import FreshViews, Images
from stlm_core.training.losses import aggregation_loss, mask_to_grid
from stlm_core.training.optimisation import autocast_dtype
from stlm_core.training_settings import FaConfig

PROFILE = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))["profiles"]["fast"]
FACTS = DetectorFacts(SIZE, "conv1x1", "unit", plain_stream="teacher", aggregation="decoder", denoising=False)


def step(
    detector: Detector, images: Tensor, masks: Tensor, dtype: torch.dtype | None, *, fused: bool = False
) -> Callable[[], object]:
    """One step of the decoder on the frozen plain stream; always the same ``images`` (N, S, S, 3) and ``masks``."""
    settings = FaConfig(**PROFILE["fa"])
    trained = list(detector.aggregation.parameters())
    # The time does not depend on the rate, and the weights stay what they are.
    optimiser = torch.optim.AdamW(trained, lr=1e-9, fused=fused)

    def work() -> object:
        detector.aggregation.train()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits = detector.aggregation(detector.streams(detector.preprocess(images)))
            target = mask_to_grid(masks, logits.shape[-2], logits.shape[-1], detector.aggregation.covered)
            loss = aggregation_loss(logits, target, settings)
        descend(loss, optimiser, trained)
        return loss

    return work


def plain_order(detector: Detector) -> Detector:
    """A copy with the channels first, as PyTorch has them unless told otherwise."""
    twin = copy.deepcopy(detector).to(memory_format=torch.contiguous_format)
    twin.streams.hasten()  # type: ignore[operator]
    return twin


def compiled(detector: Detector) -> Detector:
    """A copy whose decoder is compiled by torch.compile (inductor), which happens in the turn that does not count."""
    twin = copy.deepcopy(detector)
    twin.aggregation.compile()
    return twin


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = read_options(__doc__)
    dtype = autocast_dtype("auto", CPU)
    detector = to_device(Detector(FACTS).train(), CPU)
    detector.streams.eval()
    with tempfile.TemporaryDirectory() as folder:
        settings = SynthesizeConfig(**{**PROFILE["synthesize"], "rotation": "any"})
        bank = make_bank(Path(folder), IMAGES, SIZE, settings)
        fresh, views = FreshViews(bank.folder, settings), bank.as_they_are("train")[:BATCH]
        numbers, anomalous = itertools.count(), np.arange(BATCH) < settings.probability * BATCH

        def data_side() -> tuple[Images, npt.NDArray[np.bool_], Images]:
            return fresh.draw(bank.views(views), bank.views(views[::-1]), anomalous, 0, next(numbers), 0)

        images, masks = (torch.from_numpy(one.astype(np.uint8)) for one in data_side()[:2])

        @torch.no_grad()
        def teacher() -> object:
            return detector.streams(detector.preprocess(images))

        timings = take_turns(
            {
                "data side alone": data_side,
                "step": step(detector, images, masks, dtype),
                "teacher alone": teacher,
                "float32": step(detector, images, masks, None),
                "fused optimiser": step(detector, images, masks, dtype, fused=True),
                "channels first": step(plain_order(detector), images, masks, dtype),
                **({"torch.compile": step(compiled(detector), images, masks, dtype)} if options.compile else {}),
            },
            options.rounds,
        )
    rows = told(timings, "step", facts := surroundings(options.threads, ("torch", "numpy")))
    write_json(options.json, {**facts, "autocast": str(dtype)}, rows)


if __name__ == "__main__":
    main()
