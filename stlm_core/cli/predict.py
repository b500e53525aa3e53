"""``stlm predict``: an exported detector on images, without the training software."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def predict_command(
    model: Annotated[Path, typer.Argument(help="The model.onnx that `stlm export` made.", show_default=False)],
    images: Annotated[list[str], typer.Argument(help="Image files, folders or patterns.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for heat maps and results.csv.", show_default=False)],
    overlay: Annotated[bool, typer.Option(help="Also write each image with its heat map over it.")] = True,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for all cores.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that run together.")] = 4,
) -> None:
    """Score images with an exported detector: heat maps and a table.

    Writes OUT/results.csv, OUT/maps/*.png (16-bit, value / 65535) and OUT/overlays/*.png. The table's last column says
    how a picture differs in light or focus from the line's own. Exit code 2 when an image could not be used; the
    others are done all the same.
    """
    from stlm_core.errors import UserError
    from stlm_core.runtime.predict import predict_images

    summary = predict_images(model, images, out, overlay=overlay, threads=threads, batch_size=batch_size)
    for problem in summary.problems:
        typer.echo(problem.message, err=True)
    anomalous = sum(row.is_anomalous for row in summary.rows)
    left_out = f", {len(summary.problems)} could not be used" if summary.problems else ""
    typer.echo(f"{summary.line}: {anomalous} of {len(summary.rows)} images anomalous{left_out}; {summary.table}")
    if unusual := Counter(row.picture for row in summary.rows if row.picture):
        kinds = ", ".join(f"{count} {kind}" for kind, count in unusual.most_common())
        typer.echo(f"unlike the line's own pictures: {kinds}; look at the camera, too", err=True)
    if summary.problems:
        raise typer.Exit(UserError.exit_code)
