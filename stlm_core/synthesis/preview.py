"""A contact sheet of the bank, for a person to see whether the pseudo anomalies make sense on this line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stlm_core.synthesis.bank import Bank

_TILE = 192  # side of a picture on the sheet, pixels
_GAP = 6
_HEADER = 18
_COLUMNS = 2  # triples side by side
_TITLES = ("clean", "pseudo-anomalous", "mask")


def write_preview(bank: Bank, path: Path, count: int = 16) -> None:
    """Write a PNG with ``count`` triples (clean view, pseudo-anomalous view, mask), spread evenly over the bank."""
    pseudo = bank.index.loc[bank.index["variant"] > 0, "view"].to_numpy()
    chosen = pseudo[np.unique(np.linspace(0, len(pseudo) - 1, count).astype(int))]
    lines = -(-len(chosen) // _COLUMNS)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * 3 * step + _GAP * _COLUMNS, _HEADER + lines * step), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen.tolist()):
        line, column = divmod(number, _COLUMNS)
        clean, view = bank.views([int(bank.index["clean_view"].iloc[row]), row])
        mask = np.repeat(bank.masks([row])[0][..., None], 3, axis=-1).astype(np.uint8) * 255
        for slot, (title, picture) in enumerate(zip(_TITLES, (clean, view, mask), strict=True)):
            left = _GAP + column * (3 * step + _GAP) + slot * step
            if line == 0:
                draw.text((left, 3), title, fill="black")
            tile = Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.BILINEAR)
            sheet.paste(tile, (left, _HEADER + line * step))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
