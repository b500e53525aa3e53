"""Which images of a dataset are new to a line and may join it: the test set stays apart from all that is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stlm_core.config import LineConfig
from stlm_core.data.catalog import CatalogRow
from stlm_core.data.inspection import Inspected
from stlm_core.data.similarity import find_near_duplicates
from stlm_core.steps.line_files import reason


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that does not join the line. ``kind`` groups equal reasons."""

    path: str
    kind: str
    reason: str


@dataclass
class News:
    """``train`` and ``test``: images that join. ``known``: how many were there already, by name and bytes."""

    train: list[Inspected] = field(default_factory=list)
    test: list[Inspected] = field(default_factory=list)
    known: int = 0
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, row: Inspected, kind: str, why: str = "") -> None:
        self.left_out.append(LeftOut(row.path, kind, why or kind))


def choose_news(
    config: LineConfig,
    catalogued: Sequence[CatalogRow],
    present: Sequence[Inspected],
    found: Sequence[Inspected],
    names: Mapping[str, CatalogRow],
    *,
    extend_test: bool,
) -> News:
    """Choose among the images ``found`` in a dataset.

    ``present`` are the inspected images of ``catalogued``; ``names`` are rows by the path that they had in the same
    dataset. Of two images with the same bytes the first counts. A test image beats the training images that show the
    same part or photograph; an image that was there before beats a new one.
    """
    news = News()
    hashes = {row.sha256: row.path for row in catalogued}
    tests: list[Inspected] = []
    for row in sorted(found, key=lambda row: (row.split != "test", row.path)):
        before = names.get(row.path)
        if reason(row):
            news.leave_out(row, "unusable", reason(row))
        elif before is not None and before.sha256 == row.sha256:
            news.known += 1
        elif before is not None:
            news.leave_out(
                row, "changed", "other bytes than the image of that name had; give a new photograph a new name"
            )
        elif row.sha256 in hashes:
            news.leave_out(row, "duplicate", f"the same bytes as {hashes[row.sha256]}")
        elif row.split == "test" and not extend_test:
            news.leave_out(row, "test image", "the test set is frozen; --extend-test adds to it")
        else:
            hashes[row.sha256] = row.path
            (tests if row.split == "test" else news.train).append(row)
    _keep_apart(config, news, catalogued, present, tests)
    news.left_out.sort(key=lambda each: each.path)
    return news


def _keep_apart(
    config: LineConfig,
    news: News,
    catalogued: Sequence[CatalogRow],
    present: Sequence[Inspected],
    tests: list[Inspected],
) -> None:
    """Divide what would be on both sides of the border between train and test."""
    learned = {row.group for row in catalogued if row.split == "train" and row.group}
    tests = _without_groups(news, tests, learned, "training")
    news.test = _without_copies(config, news, tests, present, "training")
    tested = {row.group for row in catalogued if row.split == "test" and row.group} | {row.group for row in news.test}
    train = _without_groups(news, news.train, tested, "test")
    news.train = _without_copies(config, news, train, [*present, *news.test], "test")


def _without_groups(news: News, rows: Sequence[Inspected], groups: set[str], side: str) -> list[Inspected]:
    kept = []
    for row in rows:
        if row.group and row.group in groups:
            news.leave_out(row, f"part of {side} images", f"shows part {row.group}, which {side} images show")
        else:
            kept.append(row)
    return kept


def _without_copies(
    config: LineConfig, news: News, rows: Sequence[Inspected], others: Sequence[Inspected], side: str
) -> list[Inspected]:
    """``rows`` but those that show the same photograph as one of ``others`` on the other ``side``."""
    rules = config.validate_
    if rules.near_duplicates == "off" or not rows:
        return list(rows)
    together = [*others, *rows]
    across = find_near_duplicates(together, rules.near_duplicate_similarity).across
    kept = []
    for index, row in enumerate(rows, start=len(others)):
        if index in across:
            other = together[across[index].index].path
            news.leave_out(row, f"copy of {side} images", f"shows the same as the {side} image {other}")
        else:
            kept.append(row)
    return kept
