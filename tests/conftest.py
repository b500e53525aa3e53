"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Where several workers share the processor, threads of one only wait for those of another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("stlm", deadline=None)
settings.load_profile("stlm")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's top folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def datasets_root() -> Path:
    """Folder of the real inspection datasets; the test is skipped where it does not exist."""
    root = Path(os.environ.get("STLM_DATASETS", REPOSITORY.parent / "shared" / "datasets"))
    if not root.is_dir():
        pytest.skip(f"real datasets not found at {root}; set STLM_DATASETS")
    return root


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Cache folder of pretrained weights (``stlm weights fetch`` fills it)."""
    return Path(os.environ.get("STLM_WEIGHTS", REPOSITORY / ".stlm" / "weights"))
