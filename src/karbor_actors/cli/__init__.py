"""The command line: parsing and printing only. Needs the extra ``cli``."""

from __future__ import annotations

from karbor_actors.cli.entry import main

__all__ = ["main"]
