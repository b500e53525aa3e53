"""Deterministic division of a line's good training images into train, validation and calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


def assign_splits(
    digests: Sequence[str],
    groups: Sequence[str],
    *,
    validation_fraction: float,
    calibration_fraction: float,
    seed: int,
) -> list[str]:
    """The split of every image: "train", "validation" or "calibration", in the order given.

    Images that share a file sha256 (``digests``) or a non-empty group stay together. These units are ranked by a
    sha256 of ``seed`` and the unit's own name, so the result depends neither on the order nor on the names
    of the files. Calibration is filled first, then validation; a unit is taken while it brings the number
    of images closer to the fraction asked for. A fraction above 0 asks for at least one image: where all units are
    too large for it, the smallest is taken. What is filled later is left a unit each; of two units, training gets one.

    Raises:
        ValueError: ``digests`` and ``groups`` differ in length.
    """
    if len(digests) != len(groups):
        raise ValueError("one group per digest is needed")
    units = _units(digests, groups)
    ranked = sorted(units, key=lambda name: hashlib.sha256(f"{seed}\x1f{name}".encode()).digest())
    splits = ["train"] * len(digests)
    to_come = 2 if validation_fraction > 0 else 1  # validation and training
    for split, fraction in (("calibration", calibration_fraction), ("validation", validation_fraction)):
        target = max(1, round(fraction * len(digests))) if fraction > 0 else 0
        keep = max(1, min(to_come, len(ranked) - 1))
        taken = _taken({name: len(units[name]) for name in ranked}, target, keep)
        for name in taken:
            for index in units[name]:
                splits[index] = split
        ranked = [name for name in ranked if name not in taken]
        to_come = 1
    return splits


def _taken(sizes: Mapping[str, int], target: int, keep: int) -> set[str]:
    """Names of the units in ``sizes``, in order of rank, that come nearest to ``target`` images; ``keep`` are left."""
    taken: set[str] = set()
    count = 0
    for name, size in sizes.items():
        if count >= target or len(sizes) - len(taken) <= keep:
            break
        if abs(count + size - target) < abs(count - target):
            taken.add(name)
            count += size
    if target and not taken and len(sizes) > keep:
        taken.add(min(sizes, key=sizes.__getitem__))
    return taken


def _units(digests: Sequence[str], groups: Sequence[str]) -> dict[str, list[int]]:
    """Indices of the images that must not be parted, by a name that their order does not change."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for digest, group in zip(digests, groups, strict=True):
        nodes = [f"sha256:{digest}", *([f"group:{group}"] if group else [])]
        for node in nodes:
            parent.setdefault(node, node)
        first, *rest = sorted(root(node) for node in nodes)
        for node in rest:
            parent[node] = first
    units: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        units.setdefault(root(f"sha256:{digest}"), []).append(index)
    return units
