"""One command's surroundings: where it prints, and which providers it uses."""

from __future__ import annotations

import dataclasses
import logging
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import click

from karbor_actors import Bank, ProtectionService, Provider
from karbor_actors.cli.files import LOCAL, ProviderSettings, read_providers
from karbor_actors.cli.output import LogLines, Output
from karbor_actors.cli.running import finish_recovered
from karbor_actors.errors import (
    AmbiguousCheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    Fault,
    ProviderNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKERS = 16


class _NoBank(Bank):
    """Stands where a provider wants a bank and none is to be used."""

    def __init__(self) -> None:
        """Open nothing."""

    @property
    def is_writable(self) -> bool:
        """It is not."""
        return False

    def claim(self, owner: object, name: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass
class Invocation:
    """What every command gets: its output, and the providers that its options name."""

    output: Output
    config: str | None = None
    bank: str | None = None
    objects: str | None = None
    provider: str | None = None
    """The provider that ``--provider`` names."""
    progress: str = "auto"
    workers: int = WORKERS
    recover: str | None = None
    """What becomes of operations that a dead process left; None: what the settings say."""
    _settings: dict[str, ProviderSettings] | None = field(default=None, repr=False)

    @property
    def settings(self) -> dict[str, ProviderSettings]:
        """The providers of ``--config`` and ``--bank``, by name.

        Raises:
            ConfigurationError: The file is malformed, or has a provider of ``--bank``'s name.
        """
        if self._settings is None:
            found = {} if self.config is None else read_providers(self.config)
            if self.bank is not None:
                if LOCAL in found:
                    message = f"has a provider named {LOCAL!r} already; leave --bank out"
                    raise ConfigurationError([Fault(str(self.config), message)])
                found[LOCAL] = local_settings(self.bank, self.objects)
            self._settings = found
        return self._settings

    def named(self, name: str) -> ProviderSettings:
        """Return a provider's settings.

        Raises:
            ProviderNotFoundError: There is none of that name.
            click.UsageError: There is none at all.
        """
        if not self.settings:
            raise click.UsageError("say where the bank is: --bank DIRECTORY, or --config FILE")
        if name not in self.settings:
            raise ProviderNotFoundError(name, sorted(self.settings))
        return self.settings[name]

    def only(self) -> ProviderSettings:
        """Return the provider that ``--provider`` names, or the only one there is.

        Raises:
            click.UsageError: There are several, or none.
        """
        if self.provider is not None:
            return self.named(self.provider)
        if len(self.settings) > 1:
            known = ", ".join(sorted(self.settings))
            raise click.UsageError(f"say which provider with --provider: {known}")
        return self.named(next(iter(self.settings), LOCAL))

    def chosen(self) -> list[ProviderSettings]:
        """Return the provider that ``--provider`` names, or all of them."""
        if self.provider is not None or not self.settings:
            return [self.only()]
        return list(self.settings.values())

    def holder(self, checkpoint_id: str) -> tuple[ProviderSettings, str]:
        """Return the provider whose bank has a checkpoint, and the checkpoint's whole id.

        Raises:
            CheckpointNotFoundError: None has it.
            AmbiguousCheckpointError: What is given of the id fits several.
        """
        found = []
        for settings in self.chosen():
            with read_bank(settings) as bank:
                try:
                    found.append((settings, bank.checkpoint(checkpoint_id).id))
                except CheckpointNotFoundError:
                    continue
        if not found:
            raise CheckpointNotFoundError(checkpoint_id)
        if len(found) > 1:
            matches = [f"{whole} of provider {one.name}" for one, whole in found]
            raise AmbiguousCheckpointError(checkpoint_id, matches)
        return found[0]

    @contextmanager
    def service(
        self, *chosen: ProviderSettings, create: bool = False, readonly: bool = False
    ) -> Iterator[ProtectionService]:
        """Hold a service with these providers, after what it recovered has ended."""
        with self.opened(*chosen, create=create, readonly=readonly) as service:
            finish_recovered(self, service)
            yield service

    @contextmanager
    def opened(
        self,
        *chosen: ProviderSettings,
        create: bool = False,
        readonly: bool = False,
        target: ProviderSettings | None = None,
    ) -> Iterator[ProtectionService]:
        """Hold a service with these providers, whose banks are open for writing or reading.

        Args:
            chosen: The providers.
            create: Whether a bank that is not there is made.
            readonly: Whether they are only read.
            target: One more, whose bank is made if it is not there.
        """
        with (
            self.logging(),
            ProtectionService(workers=self.workers) as service,
            ExitStack() as unused,
        ):
            banks: dict[str, Bank] = {}
            providers = []
            for settings in (*chosen, *filter(None, [target])):
                bank = banks.get(settings.bank)
                if bank is None:
                    makes = create or settings is target
                    bank = open_bank(settings, create=makes, readonly=readonly)
                    banks[settings.bank] = bank
                    unused.callback(bank.close)
                providers.append(make_provider(settings, bank, self.recover))
            service.add_provider(*providers)  # together: a copy goes on if both ends are there
            unused.pop_all()
            yield service

    @contextmanager
    def planning_service(self, settings: ProviderSettings) -> Iterator[ProtectionService]:
        """Hold a service that can plan a protect but not run it; it looks at no bank."""
        with self.logging(), ProtectionService(workers=1) as service:
            service.add_provider(make_provider(settings, _NoBank()))
            yield service

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Print what the engine and plugins log, for as long as this lasts."""
        handler, loggers = LogLines(self.output), [logging.getLogger("karbor_actors")]
        for logger in loggers:
            logger.addHandler(handler)
            if self.output.is_debug:
                logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


def local_settings(bank: str, objects: str | None = None, name: str = LOCAL) -> ProviderSettings:
    """Return the settings of a provider that an option describes."""
    directory = os.path.abspath(os.path.expanduser(bank))
    return ProviderSettings(name=name, bank=directory, objects=objects)


def named_by_directory(bank: str) -> ProviderSettings:
    """Return the settings of a provider that is known by its bank's absolute path alone."""
    settings = local_settings(bank)
    return dataclasses.replace(settings, name=settings.bank)


def make_provider(settings: ProviderSettings, bank: Any, recover: str | None = None) -> Provider:
    """Return the provider that *settings* describe; closes *bank* if there can be none.

    Args:
        settings: What it is.
        bank: Its open bank.
        recover: What counts instead of the settings' own, if given.
    """
    try:
        return Provider(
            settings.name,
            bank=cast("Bank", bank),
            protection_plugins=settings.protection_plugins,
            protectables=settings.protectables,
            description=settings.description,
            recover=recover or settings.recover,
        )
    except BaseException:
        bank.close()
        raise


def open_bank(settings: ProviderSettings, *, create: bool = False, readonly: bool = False) -> Bank:
    """Open a provider's bank; the caller closes it."""
    return Bank.open(
        settings.bank, objects=settings.objects, readonly=readonly, create=create and not readonly
    )


@contextmanager
def read_bank(settings: ProviderSettings) -> Iterator[Bank]:
    """Hold a provider's bank open for reading, which no owner of it minds."""
    with open_bank(settings, readonly=True) as bank:
        yield bank


def read_banks(chosen: Sequence[ProviderSettings]) -> Iterator[tuple[ProviderSettings, Bank]]:
    """Yield each provider's bank, open for reading until the next one is asked for."""
    for settings in chosen:
        with read_bank(settings) as bank:
            yield settings, bank
