"""The command line."""

from stlm_core.cli.main import main

__all__ = ["main"]
