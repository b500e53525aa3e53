"""What all sections of the settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Fraction = float

# Settings that say how the work is done, checked or shown, and nothing of the model that comes of it.
NO_BEARING = frozenset(
    {
        "data.retrain_share",
        "validate.near_duplicates",
        "validate.near_duplicate_similarity",
        "validate.drift",
        "validate.max_drift",
        "validate.max_outside",
        "teacher.shard_views",
        "distill.checkpoint_every",
        "fa.checkpoint_every",
        "evaluate.report_images",
        "export.latency_runs",
    }
)
# Settings that no step's outputs depend on, in any way.
NO_TRACE = frozenset({"data.retrain_share", "distill.checkpoint_every", "fa.checkpoint_every"})


class Section(BaseModel):
    """A frozen section; an unknown key is an error, so that a misspelt setting is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
