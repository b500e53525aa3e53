"""``stlm serve``: the inspection server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stlm_core.cli.options import DEFAULT_PARAMS, Params

_LIMITS = "Limits"


def serve_command(
    lines: Annotated[
        list[str] | None, typer.Option("--line", help="Product line to serve; may be repeated.", show_default=False)
    ] = None,
    every_line: Annotated[bool, typer.Option("--all", help="Every line that has a champion, new ones too.")] = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="A model.onnx instead of the registry.", show_default=False)
    ] = None,
    params: Params = DEFAULT_PARAMS,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder for the last champions, to start without the registry."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any free one.")] = 8080,
    poll_seconds: Annotated[
        float, typer.Option("--poll-seconds", min=0.1, help="How often to look for a new champion.")
    ] = 10.0,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Images at a time; default: cores.", rich_help_panel=_LIMITS),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads inside the network, per image.", rich_help_panel=_LIMITS)
    ] = 1,
    queue: Annotated[
        int, typer.Option("--queue", min=0, help="Images that may wait; then 503.", rich_help_panel=_LIMITS)
    ] = 32,
    max_upload_mib: Annotated[
        int, typer.Option("--max-upload-mib", min=1, help="Of one request.", rich_help_panel=_LIMITS)
    ] = 32,
    max_megapixels: Annotated[
        int, typer.Option("--max-megapixels", min=1, help="Of one image.", rich_help_panel=_LIMITS)
    ] = 25,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Images in one batch.", rich_help_panel=_LIMITS)
    ] = 16,
    body_seconds: Annotated[
        float, typer.Option("--body-seconds", min=0.1, help="Until a body has arrived.", rich_help_panel=_LIMITS)
    ] = 30.0,
    work_seconds: Annotated[
        float, typer.Option("--work-seconds", min=0.1, help="Until the answer, from there.", rich_help_panel=_LIMITS)
    ] = 30.0,
    drain_seconds: Annotated[
        int,
        typer.Option("--drain-seconds", min=0, help="For requests at the end.", rich_help_panel=_LIMITS),
    ] = 30,
    recent: Annotated[
        int,
        typer.Option("--recent", min=0, max=500, help="Inspections kept; 0: none.", rich_help_panel=_LIMITS),
    ] = 24,
) -> None:
    """Serve champions over HTTP: images in, verdicts and heat maps out, and a page for people.

    Takes a newly promoted champion into service without dropping a request. STLM_API_KEY or STLM_API_KEY_FILE: the
    key that callers must show. STLM_VERIFY_KEY: the public key with which models must be signed.
    """
    from stlm_core.server.run import Options, serve
    from stlm_core.server.settings import MIB, Limits, cores

    limits = Limits(
        workers=workers if workers is not None else cores(),
        threads=threads,
        queue=queue,
        upload_bytes=max_upload_mib * MIB,
        buffered_bytes=max(256, 2 * max_upload_mib) * MIB,
        pixels=max_megapixels * 1_000_000,
        batch=max_batch,
        body_seconds=body_seconds,
        work_seconds=work_seconds,
        drain_seconds=drain_seconds,
        recent=recent,
    )
    options = Options(
        lines=lines or [],
        every_line=every_line,
        model=model,
        root=params.resolve().parent,
        cache=cache,
        host=host,
        port=port,
        poll_seconds=poll_seconds,
    )
    serve(options, limits)
