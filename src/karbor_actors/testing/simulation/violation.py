"""A promise that was broken, as a value."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """Something that must not be."""

    invariant: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.sentence}"
