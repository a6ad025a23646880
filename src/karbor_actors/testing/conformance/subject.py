"""What the conformance suite is told about the plugins that it tests."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from karbor_actors import Resource


class Subject(abc.ABC):
    """Plugins, resources to try them on, and eyes for what they do outside of the bank.

    It is made anew in each process that the suite starts or kills: what it keeps in attributes
    is lost with its process, and what is in *directory*, or in a server, stays.

    Args:
        directory: Where to keep files; each run of the suite has an empty one.
    """

    verbs: ClassVar[Sequence[str]] = ("protect", "verify", "restore", "copy", "delete")
    """The verbs that the plugins are for; with one that saves nothing there is nothing to verify."""
    patience: ClassVar[float] = 30.0
    """Seconds within which each operation must end, and a cancelled hook must leave."""
    parameters: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    """By verb: the parameters of the call, by resource type or ``type#id``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make the resources, so that they can be protected; once for each directory."""

    @abc.abstractmethod
    def protection_plugins(self) -> Sequence[Any]:
        """Return the protection plugins: objects, classes or entry points' names."""

    @abc.abstractmethod
    def resources(self) -> Sequence[Resource]:
        """Return the resources of the plan."""

    def protectables(self) -> Sequence[Any]:
        """Return the protectable plugins, if there are any."""
        return ()

    def parameters_of(self, verb: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the parameters of a call; :attr:`parameters` by default."""
        return self.parameters.get(verb, {})

    def frozen(self) -> Iterable[str]:
        """Return what is frozen, locked or open now: nothing, once no operation runs."""
        return ()

    def leftovers(self) -> Iterable[str]:
        """Return what hooks have made outside of the bank and not removed.

        It is asked when every checkpoint has been deleted, and must then be what it was at first.
        """
        return ()

    def check_restored(self) -> None:
        """Raise AssertionError if what a restore made is not what was protected."""
