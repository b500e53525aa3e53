"""What all sections of the settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Fraction = float


class Section(BaseModel):
    """A frozen section; an unknown key is an error, so that a misspelt setting is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
