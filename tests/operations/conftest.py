from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from karbor_actors import ProtectionService
from kit import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def service() -> Iterator[ProtectionService]:
    with ProtectionService(workers=4) as service:
        yield service
