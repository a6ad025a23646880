"""Where a copy goes: a provider that may not have been added yet after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.errors import PluginError, ProviderNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from karbor_actors.bank.bank import Bank
    from karbor_actors.provider import Provider


class CopyTarget:
    """The provider into whose bank a copy goes, by its name. Safe from any thread.

    Args:
        name: The provider's name.
        providers: Returns those that were added, by name.
    """

    def __init__(self, name: str, providers: Callable[[], Mapping[str, Provider]]) -> None:
        self.name, self._providers = name, providers

    @property
    def is_missing(self) -> bool:
        """Whether it has not been added."""
        return self.name not in self._providers()

    @property
    def bank(self) -> Bank:
        """The bank that gets the copy.

        Raises:
            ProviderNotFoundError: The provider has not been added.
        """
        providers = self._providers()
        if self.name not in providers:
            raise ProviderNotFoundError(self.name, sorted(providers))
        return providers[self.name].bank


class MissingCopy:
    """Stands for a copy whose bank is not there: only an ``on_abort`` that wants it fails.

    Args:
        target: Where the copy is.
    """

    def __init__(self, target: CopyTarget) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        raise PluginError(
            f"no {name!r}: the copy is in the bank of provider {self._target.name!r}, which has "
            "not been added"
        )
