"""What everything that reads and writes one open bank needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.manifests.manifests import Manifests
    from karbor_actors.bank.reserve import Reserve
    from karbor_actors.bank.writer import Writer


@dataclass(frozen=True, slots=True)
class BankParts:
    """The parts of one open bank. Safe from any thread until the bank is closed."""

    environment: Environment
    """For reading."""
    writer: Writer
    """For writing; refuses it where the bank is read-only."""
    blocks: BlockStore
    """Where bulk data is."""
    manifests: Manifests
    """What says in the object store what each checkpoint is."""
    reserve: Reserve
    """Space for a start, and for a delete, on a full disk."""

    @property
    def is_writable(self) -> bool:
        """Whether the bank was opened for writing."""
        return not self.environment.readonly
