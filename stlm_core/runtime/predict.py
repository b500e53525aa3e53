"""`stlm predict`: images in, heat maps and a table out, with nothing but onnxruntime, numpy and Pillow."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.data.images import read_image
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.progress import Progress, progress
from stlm_core.runtime.model import DetectorSession
from stlm_core.runtime.render import map_to_png, overlay_to_png
from stlm_core.runtime.sources import Problem, Source, find_sources

RESULTS = "results.csv"
_MAPS, _OVERLAYS = "maps", "overlays"
_LONGEST_NAME = 255  # bytes, of a file on any usual file system
_HELD_PIXELS = 24_000_000  # of images that wait for others of their size; bounds the batch, too


@dataclass(frozen=True)
class Row:
    """One line of ``results.csv``.

    ``score`` in [0, 1], anomalous above ``threshold``. ``max_x``, ``max_y``: where the map is largest, pixels from the
    top left corner, after EXIF rotation, as are ``width`` and ``height``. ``max_value``: the map there. ``ms``: time of
    the network per image, milliseconds. ``map``, ``overlay``: files, relative to the
    table; empty if not written. ``picture``: how it differs in light and focus from the line's good ones, such as
    "blurred" or "dark blurred"; empty if it does not, or if the model does not know.
    """

    path: str
    score: float
    is_anomalous: bool
    threshold: float
    max_x: int
    max_y: int
    max_value: float
    width: int
    height: int
    ms: float
    map: str
    overlay: str
    picture: str


@dataclass(frozen=True)
class PredictSummary:
    """What a run did. ``rows`` are in the order of the command line; ``problems`` name what could not be used."""

    line: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    table: Path


@dataclass(frozen=True)
class _Loaded:
    order: int
    source: Source
    pixels: npt.NDArray[np.uint8]


def predict_images(
    model: Path,
    arguments: Sequence[str],
    out: Path,
    *,
    overlay: bool = True,
    threads: int = 0,
    batch_size: int = 4,
) -> PredictSummary:
    """Score images and write ``out/maps/*.png`` (16-bit), ``out/overlays/*.png`` and ``out/results.csv``.

    What an earlier run wrote there is not taken for an image, so ``out`` may be the images' own folder.
    Images of equal size go through the network together, up to ``batch_size``. An image that cannot be read, or whose
    pictures cannot be named after it, is reported in ``problems`` and left out of the table; the others are still done.
    The table is written last, so it never names a picture that does not exist.

    Raises:
        UserError: the model is not ours, no image is named at all, a named image would be overwritten by a picture, or
            ``out`` cannot be written.
    """
    if batch_size < 1:
        raise UserError(f"batch size: {batch_size} is less than 1")
    if not arguments:
        raise UserError("no images given; name files, folders or patterns")
    session = DetectorSession(model, threads=threads)
    sources, problems = find_sources(arguments, exclude=[out / name for name in (RESULTS, _MAPS, _OVERLAYS)])
    sources = _nameable(sources, problems)
    _require_kept(sources, out)
    rows: dict[int, Row] = {}
    writer = _Writer(session, out, overlay)
    with progress("predict", len(sources)) as shown:
        for batch in _batches(sources, batch_size, problems, shown):
            for loaded, row in zip(batch, writer.run(batch), strict=True):
                rows[loaded.order] = row
            shown.advance(len(batch))
    ordered = tuple(rows[order] for order in sorted(rows))
    table = out / RESULTS
    write_bytes_atomic(table, _table(ordered).encode("utf-8", "surrogateescape"))
    return PredictSummary(session.line, ordered, tuple(problems), table)


def _nameable(sources: Sequence[Source], problems: list[Problem]) -> list[Source]:
    """The images after which a picture can be named; the others are added to ``problems``."""
    nameable = []
    for source in sources:
        length = len(os.fsencode(f"{source.key.name}.png"))
        if length <= _LONGEST_NAME:
            nameable.append(source)
        else:
            told = f"the name is too long: its heat map's would have {length} bytes, more than {_LONGEST_NAME}"
            problems.append(Problem(source.path, f"{source.path}: {told}"))
    return nameable


def _require_kept(sources: Sequence[Source], out: Path) -> None:
    """Refuse images, named one by one, that stand where a picture of this run will be written."""
    images = {source.path.resolve() for source in sources}
    for source in sources:
        for folder in (_MAPS, _OVERLAYS):
            picture = out / folder / f"{source.key}.png"
            if picture.resolve() in images:
                raise UserError(f"{picture}: is one of the images and would be overwritten; choose another --out")


def _batches(
    sources: Sequence[Source], batch_size: int, problems: list[Problem], shown: Progress
) -> Iterator[list[_Loaded]]:
    """Images of equal size together; what waits for company is bounded in pixels."""
    waiting: dict[tuple[int, ...], list[_Loaded]] = {}
    for order, source in enumerate(sources):
        try:
            pixels = read_image(source.path)
        except UserError as error:
            problems.append(Problem(source.path, str(error)))
            shown.advance()
            continue
        group = waiting.setdefault(pixels.shape, [])
        group.append(_Loaded(order, source, pixels))
        if len(group) >= batch_size:
            yield waiting.pop(pixels.shape)
        while sum(map(_pixel_count, waiting.values())) > _HELD_PIXELS:
            yield waiting.pop(max(waiting, key=lambda shape: _pixel_count(waiting[shape])))
    yield from waiting.values()


def _pixel_count(group: Sequence[_Loaded]) -> int:
    return sum(loaded.pixels.size // 3 for loaded in group)


class _Writer:
    """Runs batches and writes their pictures."""

    def __init__(self, session: DetectorSession, out: Path, overlay: bool) -> None:
        self.session, self.out, self.overlay = session, out, overlay

    def run(self, batch: Sequence[_Loaded]) -> list[Row]:
        images = np.stack([loaded.pixels for loaded in batch])
        began = time.perf_counter()
        prediction = self.session.predict(images)
        ms = (time.perf_counter() - began) * 1000 / len(batch)
        return [
            self._write(loaded, float(score), anomaly_map, bool(anomalous), ms)
            for loaded, score, anomaly_map, anomalous in zip(
                batch, prediction.scores, prediction.anomaly_maps, prediction.is_anomalous, strict=True
            )
        ]

    def _write(
        self, loaded: _Loaded, score: float, anomaly_map: npt.NDArray[np.float32], anomalous: bool, ms: float
    ) -> Row:
        height, width = anomaly_map.shape
        y, x = (int(index) for index in np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape))
        map_name = f"{_MAPS}/{loaded.source.key}.png"
        overlay_name = f"{_OVERLAYS}/{loaded.source.key}.png" if self.overlay else ""
        write_bytes_atomic(self.out / map_name, map_to_png(anomaly_map))
        if overlay_name:
            picture = overlay_to_png(loaded.pixels, anomaly_map, self.session.raw_threshold)
            write_bytes_atomic(self.out / overlay_name, picture)
        return Row(
            path=str(loaded.source.path),
            score=_shortest(score),
            is_anomalous=anomalous,
            threshold=self.session.threshold,
            max_x=x,
            max_y=y,
            max_value=_shortest(float(anomaly_map[y, x])),
            width=width,
            height=height,
            ms=round(ms, 2),
            map=map_name,
            overlay=overlay_name,
            picture=" ".join(self.session.complaints(loaded.pixels)),
        )


def _shortest(value: float) -> float:
    """Nine digits tell any two float32 apart, so that a score just above the threshold reads so."""
    return float(f"{value:.9g}")


def _table(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows(astuple(row) for row in rows)
    return stream.getvalue()
