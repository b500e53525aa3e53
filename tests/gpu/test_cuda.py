"""What may differ on a GPU: numbers of the detector, and one step of joint training in reduced precision."""

from __future__ import annotations

import pytest
import torch

from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.training.losses import aggregation_loss, distillation_loss
from stlm_core.training.optimisation import autocast_dtype

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
FACTS = DetectorFacts(256, "conv3x3", "unit")


def test_detector_gives_the_same_scores_as_on_the_cpu():
    detector = Detector(FACTS).eval()
    images = torch.randint(0, 256, (2, 300, 280, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = detector(images)
        got = detector.cuda()(images.cuda())
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-3, rtol=1e-2)


def test_a_step_in_reduced_precision_gives_finite_gradients_everywhere():
    device = torch.device("cuda")
    detector = Detector(FACTS).train().to(device)
    images = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8, device=device)
    features = torch.nn.functional.normalize(torch.randn(2, 2, 256, 16, 16, device=device), dim=2)
    with torch.autocast("cuda", dtype=autocast_dtype("auto", device)):
        streams = detector.streams(detector.preprocess(images))
        logits = detector.aggregation(streams)
        loss = distillation_loss(streams, detector.streams.targets(features, features))
        loss = loss + aggregation_loss(logits, torch.zeros_like(logits), 4.0, 1.0)
    loss.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
