"""``stlm keys``: the keys that models are signed and verified with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys_app = typer.Typer(help="Keys that models are signed and verified with.", no_args_is_help=True)


@keys_app.command("make")
def make_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for signing.pem (keep it secret) and verify.pem.")],
) -> None:
    """Make an Ed25519 key pair."""
    from stlm_core.integrity import SIGNING_KEY, VERIFY_KEY, make_keys

    private, public = make_keys(out)
    typer.echo(f"{private}: the private key; where models are registered set {SIGNING_KEY} to its path")
    typer.echo(f"{public}: the public key; where models are served or promoted set {VERIFY_KEY} to its path")
