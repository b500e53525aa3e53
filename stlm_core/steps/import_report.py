"""What an import takes in, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.data.inspection import Inspection
from stlm_core.data.manifest import SPLITS
from stlm_core.steps.line_files import reason

_NAMED = 10


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of an import. ``counts``: usable images a split; ``defect_types``: usable anomalous images a type.

    ``masks`` and ``groups`` count those of usable images. ``problems`` name each file that cannot be used, with the
    reason; ``ignored`` counts files passed over by reason. ``size``: bytes of the files on this machine; ``unread``:
    images in S3, which a dry run does not fetch.
    """

    counts: Mapping[str, int]
    defect_types: Mapping[str, int]
    masks: int
    groups: int
    problems: tuple[str, ...]
    ignored: Mapping[str, int]
    size: int
    unread: int = 0

    @classmethod
    def of(cls, inspection: Inspection, size: int, unread: int = 0) -> ImportReport:
        """The report on inspected images."""
        usable = [row for row in inspection.rows if not reason(row)]
        counts = Counter(row.split for row in usable)
        return cls(
            {split: counts[split] for split in SPLITS},
            dict(sorted(Counter(row.defect_type for row in usable if row.label).items())),
            sum(1 for row in usable if row.label and row.mask_path),
            len({row.group for row in usable if row.group}),
            tuple(f"{row.path} ({reason(row)})" for row in inspection.rows if reason(row)),
            dict(sorted(inspection.ignored.items())),
            size,
            unread,
        )

    def summary(self) -> str:
        """Images a split, on one line."""
        return ", ".join(f"{count} {split}" for split, count in self.counts.items())

    def remarks(self) -> list[str]:
        """What did not come in and would not be missed otherwise, a line each."""
        told = []
        if self.ignored:
            told.append("passed over: " + ", ".join(f"{count} {why}" for why, count in self.ignored.items()))
        if self.defect_types and not self.masks:
            told.append("no masks found: where the defects are cannot be measured (validate.require_masks: false)")
        return told

    def lines(self) -> list[str]:
        """Everything, a line each."""
        types = ", ".join(f"{count} {name}" for name, count in self.defect_types.items()) or "none"
        lines = [
            f"images: {self.summary()}",
            f"anomalous: {types}; masks: {self.masks}; groups: {self.groups}",
            f"size: {self.size / 1e6:.1f} MB",
        ]
        if self.unread:
            lines.append(f"in S3, not read by a dry run: {self.unread} images")
        lines += self.remarks()
        if self.problems:
            lines.append(f"cannot be used: {len(self.problems)}")
            lines += [f"  {problem}" for problem in self.problems[:_NAMED]]
            if len(self.problems) > _NAMED:
                lines.append(f"  and {len(self.problems) - _NAMED} more")
        return lines
