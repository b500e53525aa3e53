"""A compiled pipeline as a picture: SVG, on a white ground of its own, so that it reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import yaml

from pipelines import svg
from pipelines.compilation import COMPILED
from pipelines.dag import Dag, FlowKind, Group, Task, read_dag
from pipelines.layout import (
    MARGIN,
    PILL_GAP,
    SMALL,
    TITLE,
    Box,
    Drop,
    Geometry,
    Wire,
    geometry,
    pill_width,
    pills,
    text_width,
)
from stlm_core.errors import UserError

DRAWN = "training-cpu"  # the pipeline in the documentation, and its picture
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "training_dag.svg"

# Fill and edge of a box, by what its image is for.
_IMAGES = {
    "data": ("#e3f3e6", "#2f7d46"),
    "train": ("#e4eefb", "#2560ac"),
    "serve": ("#fdf0d9", "#96590a"),
    "launch": ("#efe7fa", "#7043b0"),
}
_OTHER_IMAGE = ("#eceff2", svg.GREY)
# Of artifacts, only to tell neighbours apart.
_COLOURS = ("#0a66c2", "#b5460f", "#18794e", "#8e3b9e", "#c0263c", "#0d7a80", "#7a6200", "#4a4ec4", "#b02a76")
_DASHES: dict[FlowKind, str] = {"artifact": "", "parameter": "5 4", "order": "1.5 4"}
_BOLD, _TO_THE_LEFT = 'font-weight="bold"', 'text-anchor="end"'
_BEND = 6  # radius of a line's corners
_HEADING, _LEGEND_LINE = 64, 26
_LEAST_WIDTH = 560


def picture_of(name: str) -> str:
    """The picture of the pipeline compiled into ``pipelines/compiled/NAME.yaml``.

    Raises:
        UserError: there is no such file.
    """
    file = COMPILED / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(found.stem for found in COMPILED.glob("*.yaml")))
        raise UserError(f"pipelines/compiled/{name}.yaml: there is no such pipeline; take one of {known}")
    return draw(read_dag(next(iter(yaml.safe_load_all(file.read_text(encoding="utf-8"))))))


def draw(dag: Dag) -> str:
    """The SVG of a pipeline."""
    places = geometry(dag)
    width = max(places.width, _LEAST_WIDTH)
    legend, top = _legend(dag, width)
    height = top + places.height
    described = f"{dag.description} Tasks: {', '.join(task.title for task in dag.tasks)}."
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(dag.title)}</title>",
        f"<desc>{escape(described)}</desc>",
        svg.rectangle(0.5, 0.5, width - 1, height - 1, 12, f'fill="{svg.GROUND}" stroke="#d1d9e0"'),
        *legend,
        f'<g transform="translate({(width - places.width) / 2:.1f} {top:.1f})">',
        *_body(dag, places),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _body(dag: Dag, places: Geometry) -> Iterator[str]:
    """Frames at the back; then lines, those from side to side over those that run down; then boxes; then labels."""
    for group in dag.groups:
        yield from _frame(group, places.frames[group.name], max(places.frames[group.name].x + 12, places.clear))
    for wire in places.wires:
        run = f"M{wire.x:.1f} {wire.taps[0].y + _BEND:.1f}V{wire.taps[-1].y - _BEND:.1f}"
        yield svg.path(run, _colour(wire.colour), dashes=_DASHES[wire.kind])
    for wire in places.wires:
        yield from _taps(wire)
    for drop in places.drops:
        colour = _colour(drop.colour)
        run = f"M{drop.x:.1f} {drop.top:.1f}V{drop.bottom - svg.ARROW:.1f}"
        yield svg.path(run, colour, dashes=_DASHES[drop.kind])
        yield svg.arrow(drop.x, drop.bottom, "down", colour)
    for task in dag.tasks:
        yield from _box(task, places.boxes[task.name])
    for wire in places.wires:
        more = f"{_TO_THE_LEFT if wire.from_left else ''} {svg.HALO}"
        for tap in wire.taps:
            if tap.leaves:
                yield svg.dot(tap.x, tap.y, _colour(wire.colour))
            yield svg.text(tap.label_x, tap.y - 5, wire.label, SMALL, _colour(wire.colour), more)
    for drop in places.drops:
        yield _drop_label(drop)


def _frame(group: Group, frame: Box, text_x: float) -> Iterator[str]:
    if group.kind == "loop":  # a second sheet behind the first
        yield svg.rectangle(
            frame.x + 5, frame.y + 5, frame.width, frame.height, 10, f'fill="#eaeef2" stroke="{svg.FAINT}"'
        )
    fill = svg.GROUND if group.kind == "loop" else "none"
    dashes = ' stroke-dasharray="7 4"' if group.kind == "condition" else ""
    look = f'fill="{fill}" stroke="{svg.FAINT}" stroke-width="1.3"{dashes}'
    yield svg.rectangle(frame.x, frame.y, frame.width, frame.height, 10, look)
    yield svg.text(text_x, frame.y + 18, group.title, SMALL + 1, svg.INK, _BOLD)
    yield svg.text(text_x, frame.y + 33, group.detail, SMALL, svg.GREY)


def _box(task: Task, box: Box) -> Iterator[str]:
    fill, edge = _image_colours(task.image)
    middle, right = box.y + box.height / 2, box.right - 14
    yield svg.rectangle(box.x, box.y, box.width, box.height, 7, f'fill="{fill}" stroke="{edge}" stroke-width="1.4"')
    yield svg.text(box.x + 14, middle - 6, task.title, TITLE, svg.INK, _BOLD)
    yield svg.text(right, middle - 6, task.name, SMALL, svg.GREY, _TO_THE_LEFT)
    yield svg.text(box.x + 14, middle + 16, task.image, SMALL, edge)
    for words in reversed(pills(task)):
        yield from _pill(right - pill_width(words), middle + 3, words)
        right -= pill_width(words) + PILL_GAP


def _pill(x: float, y: float, words: str) -> Iterator[str]:
    width = pill_width(words)
    yield svg.rectangle(x, y, width, 18, 9, f'fill="{svg.GROUND}" stroke="{svg.GREY}"')
    yield svg.text(x + width / 2, y + 13, words, SMALL, svg.INK, 'text-anchor="middle"')


def _taps(wire: Wire) -> Iterator[str]:
    """The ends of a line; a gap in what they cross shows that the two do not touch."""
    inwards = 1 if wire.from_left else -1
    colour = _colour(wire.colour)
    for tap in wire.taps:
        corner = tap.y + (_BEND if tap.leaves else -_BEND)
        start = wire.x + inwards * _BEND
        stop = tap.x - (0 if tap.leaves else inwards * svg.ARROW)
        yield svg.path(f"M{start:.1f} {tap.y:.1f}H{stop:.1f}", svg.GROUND, width=7)
        bend = f"M{wire.x:.1f} {corner:.1f}Q{wire.x:.1f} {tap.y:.1f} {start:.1f} {tap.y:.1f}H{stop:.1f}"
        yield svg.path(bend, colour, dashes=_DASHES[wire.kind])
        if not tap.leaves:
            yield svg.arrow(tap.x, tap.y, "right" if wire.from_left else "left", colour)


def _drop_label(drop: Drop) -> str:
    return svg.text(drop.x + 8, drop.label_y + 4, drop.label, SMALL, _colour(drop.colour), svg.HALO)


def _legend(dag: Dag, width: float) -> tuple[list[str], float]:
    """Heading and legend, wrapped to the width, and where they end."""
    lines = [
        svg.text(MARGIN, 32, dag.title, 19, svg.INK, _BOLD),
        svg.text(MARGIN, 52, dag.description, 12.5, svg.GREY),
    ]
    x, y = float(MARGIN), float(_HEADING)
    for symbol, wide, words in _legend_entries(dag):
        whole = wide + 6 + text_width(words, SMALL)
        if x > MARGIN and x + whole > width - MARGIN:
            x, y = float(MARGIN), y + _LEGEND_LINE
        lines += [f'<g transform="translate({x:.1f} {y:.1f})">', *symbol]
        lines += [svg.text(wide + 6, 13, words, SMALL, svg.INK), "</g>"]
        x += whole + 18
    return lines, y + _LEGEND_LINE + 16


def _legend_entries(dag: Dag) -> Iterator[tuple[list[str], float, str]]:
    """Symbol, its width and its meaning, of everything that this pipeline's picture uses."""
    for image in dict.fromkeys(task.image for task in dag.tasks):
        fill, edge = _image_colours(image)
        yield [svg.rectangle(0, 1, 24, 16, 4, f'fill="{fill}" stroke="{edge}" stroke-width="1.4"')], 24, image
    kinds = {flow.kind for flow in dag.flows}
    for kind, meaning in (("artifact", "artifact"), ("parameter", "parameter"), ("order", "waits for")):
        if kind in kinds:
            colour = _colour(0 if kind == "artifact" else None)
            line = svg.path(f"M0 9H{34 - svg.ARROW}", colour, dashes=_DASHES[kind])
            yield [line, svg.arrow(34, 9, "right", colour)], 34, meaning


def _image_colours(image: str) -> tuple[str, str]:
    return next((colours for word, colours in _IMAGES.items() if word in image.split("-")), _OTHER_IMAGE)


def _colour(number: int | None) -> str:
    return svg.GREY if number is None else _COLOURS[number % len(_COLOURS)]
