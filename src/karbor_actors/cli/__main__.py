"""Run the command line as ``python -m karbor_actors.cli``."""

from __future__ import annotations

import sys

from karbor_actors.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
