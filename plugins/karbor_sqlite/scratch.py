"""A private directory for a temporary copy, which never outlives its operation."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from karbor_sqlite.errors import ScratchError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "karbor-sqlite-"
_STATE_KEY = "scratch"


@contextmanager
def scratch_file(context: Any, parent: str | None) -> Iterator[str]:
    """Hold the path of an empty file, 0600 in a directory of its own, for a ``with`` block.

    The path is durable in ``context.state`` before anything is made, so that
    :func:`remove_scratch` finds it after a crash.

    Args:
        parent: The directory to make it in; None for the system's place for temporary files.

    Raises:
        ScratchError: It cannot be made.
    """
    remove_scratch(context)  # of an earlier attempt
    base = os.path.abspath(parent or tempfile.gettempdir())
    path = os.path.join(base, f"{_PREFIX}{secrets.token_hex(8)}")
    context.state[_STATE_KEY] = path
    context.state.flush()
    try:
        os.mkdir(path, 0o700)
        file = os.path.join(path, "database")
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ScratchError(base, reason_of(error)) from error
    try:
        yield file
    finally:
        shutil.rmtree(path)


def remove_scratch(context: Any) -> None:
    """Remove what an attempt that did not end well may have left."""
    path = context.state.get(_STATE_KEY)
    if path is not None and os.path.lexists(path):
        shutil.rmtree(path)
