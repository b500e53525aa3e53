"""The few shapes that the picture of a pipeline is made of, as SVG text."""

from __future__ import annotations

from typing import Literal
from xml.sax.saxutils import escape

INK, GREY, FAINT, GROUND = "#1f2328", "#59636e", "#8c959f", "#ffffff"
HALO = f'stroke="{GROUND}" stroke-width="3" paint-order="stroke"'  # keeps text readable where a line runs behind it
ARROW = 7  # length


def rectangle(x: float, y: float, width: float, height: float, radius: float, more: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" {more}/>'


def text(x: float, y: float, words: str, size: float, colour: str, more: str = "") -> str:
    """One line of text, which stands on ``y``."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" {more}>{escape(words)}</text>'


def path(commands: str, colour: str, width: float = 1.8, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{commands}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def arrow(x: float, y: float, towards: Literal["left", "right", "down"], colour: str) -> str:
    """The head of an arrow whose tip is at (``x``, ``y``)."""
    back = {"left": (ARROW, 0), "right": (-ARROW, 0), "down": (0, -ARROW)}[towards]
    half = ARROW * 0.6
    corners = [
        (x, y),
        (x + back[0] + (half if back[1] else 0), y + back[1] + (half if back[0] else 0)),
        (x + back[0] - (half if back[1] else 0), y + back[1] - (half if back[0] else 0)),
    ]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" fill="{colour}"/>'
