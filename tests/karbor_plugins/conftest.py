"""Karbor's own plugin classes on the engine: collected only where Karbor is installed for it.

Karbor 1.6.0 brings over a hundred distributions, so these tests have a tox environment of
their own, ``karbor-plugins``, which sets KARBOR_PLUGINS. Set there and Karbor missing is an
error, not a reason to skip.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WANTED = "KARBOR_PLUGINS"
"""The environment variable that asks for these tests."""

if WANTED in os.environ:
    # Karbor polls with eventlet's loops, each worker thread in one of its own; of the ways that
    # these wait, this is the one that leaves no open file behind when the thread ends.
    os.environ.setdefault("EVENTLET_HUB", "poll")
    with warnings.catch_warnings():
        # The last Karbor is of 2020, and its dependencies are of today: all sorts are deprecated.
        warnings.simplefilter("ignore")
        from karbor_plugins import karbor_side
else:
    collect_ignore_glob = ["*"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that there are tests that were not collected."""
    if WANTED not in os.environ:
        terminalreporter.write_line(
            "tests/karbor_plugins was not collected: it wants Karbor; run: tox run -e karbor-plugins"
        )


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a cloud that Karbor's plugins get their clients of."""
    return karbor_side.make_cloud(monkeypatch)


@pytest.fixture
def service(tmp_path: Path, cloud: Any) -> Iterator[Any]:
    """Return a service whose provider ``karbor`` has Karbor's plugins, and a bank."""
    yield from karbor_side.make_service(tmp_path / "bank")
