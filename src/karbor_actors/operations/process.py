"""Whose process it is: what a fork leaves in the child has no threads."""

from __future__ import annotations

import os

from karbor_actors.errors import ServiceClosedError


def check_process(pid: int) -> None:
    """Refuse what process *pid* made, in a child that was forked from it.

    Raises:
        ServiceClosedError: The calling process is another one.
    """
    if os.getpid() != pid:
        msg = "the service, and its operations, stayed in the parent; make another after a fork"
        raise ServiceClosedError(msg)
