"""The command line ``smartfallback``. Only this package knows typer."""

from smartfallback.cli.app import main

__all__ = ["main"]
