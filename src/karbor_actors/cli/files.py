"""The TOML files: which providers there are, and what a plan holds."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors import Plan
from karbor_actors.errors import ConfigurationError, Fault, ParametersError, PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.errors import KarborError

LOCAL = "local"
"""The name of the provider that ``--bank`` makes, and of a plan's that names none."""
PLUGINS = ("filesystem", "sqlite")
"""The plugins of a provider that names none."""

RECOVER = ("resume", "abort")
"""What may become of operations that a dead process left."""

_PROVIDER_FIELDS = {
    "name": str,
    "bank": str,
    "objects": str,
    "description": str,
    "recover": str,
    "protection_plugins": list,
    "protectables": list,
}
_KINDS = {str: "a non-empty string", list: "a list of names"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One provider as a file or the command line describes it."""

    name: str
    bank: str
    """The bank's directory, absolute."""
    objects: str | None = None
    """The URL of its object store, if it is not below the directory."""
    description: str = ""
    recover: str = RECOVER[0]
    """What becomes of operations that a dead process left."""
    protection_plugins: tuple[str, ...] = PLUGINS
    protectables: tuple[str, ...] = PLUGINS


def read_providers(path: str) -> dict[str, ProviderSettings]:
    """Return the providers that the file *path* describes, by name.

    Raises:
        ConfigurationError: It cannot be read, or is malformed; every fault at once.
    """
    data = _read_toml(path, ConfigurationError)
    faults = [Fault(key, "is not known; providers are [[provider]]") for key in data]
    faults = [fault for fault in faults if fault.where != "provider"]
    tables = data.get("provider", [])
    if not isinstance(tables, list) or not tables:
        faults.append(Fault("provider", "is missing: describe each one under [[provider]]"))
        tables = []
    providers: dict[str, ProviderSettings] = {}
    for number, table in enumerate(tables):
        where = f"provider[{number}]"
        settings = _provider(table, where, os.path.dirname(os.path.abspath(path)), faults)
        if settings is None:
            continue
        if settings.name in providers:
            faults.append(Fault(f"{where}.name", f"{settings.name!r} is there twice"))
        providers[settings.name] = settings
    if faults:
        raise ConfigurationError([Fault(path, str(fault)) for fault in faults])
    return providers


def _provider(
    table: object, where: str, folder: str, faults: list[Fault]
) -> ProviderSettings | None:
    if not isinstance(table, dict):
        faults.append(Fault(where, "must be a table: [[provider]]"))
        return None
    before = len(faults)
    for key, value in table.items():
        kind = _PROVIDER_FIELDS.get(key)
        if kind is None:
            faults.append(Fault(f"{where}.{key}", "is not a field of a provider"))
        elif not _fits(value, kind, may_be_empty=key == "description"):
            faults.append(Fault(f"{where}.{key}", f"must be {_KINDS[kind]}"))
    if table.get("recover", RECOVER[0]) not in RECOVER:
        faults.append(Fault(f"{where}.recover", f"must be one of {', '.join(RECOVER)}"))
    faults.extend(
        Fault(f"{where}.{key}", "is missing") for key in ("name", "bank") if key not in table
    )
    if "\0" in str(table.get("bank")):
        faults.append(Fault(f"{where}.bank", "holds NUL, which no path does"))
    if len(faults) > before:
        return None
    plugins = tuple(table.get("protection_plugins", PLUGINS))
    return ProviderSettings(
        name=table["name"],
        bank=_path_in(folder, table["bank"]),
        objects=table.get("objects"),
        description=table.get("description", ""),
        recover=table.get("recover", RECOVER[0]),
        protection_plugins=plugins,
        protectables=tuple(table.get("protectables", plugins)),
    )


def _fits(value: object, kind: type, *, may_be_empty: bool) -> bool:
    if isinstance(value, list):
        return kind is list and all(isinstance(name, str) and name for name in value)
    return isinstance(value, kind) and (bool(value) or may_be_empty)


def read_plan(path: str) -> Plan:
    """Return the plan in the file *path*.

    A resource's id that begins with ``./``, ``../`` or ``~/`` is a path, relative to the
    plan's folder, and becomes absolute.

    Raises:
        PlanError: It cannot be read, or is malformed; every fault at once.
    """
    data = {"provider": LOCAL, **_read_toml(path, PlanError)}
    folder = os.path.dirname(os.path.abspath(path))
    resources = data.get("resources")
    if isinstance(resources, list):
        data["resources"] = [_with_absolute_id(entry, folder) for entry in resources]
    parameters = data.get("parameters")
    if isinstance(parameters, dict):
        data["parameters"] = {
            absolute_key(key, folder): fields for key, fields in parameters.items()
        }
    try:
        return Plan.from_dict(data)
    except PlanError as error:
        raise PlanError([Fault(path, str(fault)) for fault in error.faults]) from error


def _with_absolute_id(entry: object, folder: str) -> object:
    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
        return entry | {"id": absolute_id(entry["id"], folder)}
    return entry


def absolute_id(resource_id: str, folder: str) -> str:
    """Return a resource's id; what is written as a relative path becomes absolute.

    Links on the way are resolved, so that one directory has one id however it is reached. What
    holds a NUL is no path.
    """
    if "\0" in resource_id:
        return resource_id
    if resource_id in {".", ".."} or resource_id.startswith(("./", "../", "~/")):
        return os.path.realpath(_path_in(folder, resource_id))
    return resource_id


def absolute_key(key: str, folder: str) -> str:
    """Return a key of parameters, ``type`` or ``type#id``, with the id made absolute."""
    resource_type, mark, resource_id = key.partition("#")
    return f"{resource_type}#{absolute_id(resource_id, folder)}" if mark else key


def read_parameters(path: str) -> dict[str, Any]:
    """Return the parameters in the file *path*: tables by resource type or ``type#id``.

    Raises:
        ParametersError: It cannot be read, or is no TOML.
    """
    folder = os.path.dirname(os.path.abspath(path))
    data = _read_toml(path, ParametersError)
    return {absolute_key(key, folder): fields for key, fields in data.items()}


def parse_parameters(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the parameters that ``TYPE.FIELD=VALUE`` or ``TYPE#ID.FIELD=VALUE`` set.

    A value is read as TOML has it (``true``, ``3``, ``["a", "b"]``), else as the text it is.

    Raises:
        ParametersError: One is no such assignment.
    """
    parameters: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, mark, value = assignment.partition("=")
        key, dot, field = name.rpartition(".")
        if not (mark and dot and key and field):
            fault = Fault(
                assignment, "must be TYPE.FIELD=VALUE, as FileSystem::Directory.overwrite=true"
            )
            raise ParametersError([fault])
        parameters.setdefault(absolute_key(key, os.getcwd()), {})[field] = _toml_value(value)
    return parameters


def merge_parameters(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of all *layers*, later ones over earlier ones, field by field."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, fields in layer.items():
            both = isinstance(fields, dict) and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | fields if both else fields
    return merged


def _toml_value(text: str) -> Any:
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _path_in(folder: str, path: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def _read_toml(
    path: str, error_class: type[ConfigurationError | ParametersError | PlanError]
) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        reason: KarborError = error_class([Fault(path, f"cannot be read: {error.strerror}")])
        raise reason from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = error_class([Fault(path, f"is no TOML: {' '.join(str(error).split())}")])
        raise reason from error
