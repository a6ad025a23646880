"""The commands that look at the installed plugins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import click

from karbor_actors.cli.options import command
from karbor_actors.cli.text import shown
from karbor_actors.errors import KarborError, PluginError
from karbor_actors.model import OperationType
from karbor_actors.plugins import (
    PROTECTABLE_GROUP,
    PROTECTION_GROUP,
    ProtectionPlugin,
    instantiate,
    load_plugin,
)

if TYPE_CHECKING:
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output

_GROUPS = {PROTECTION_GROUP: "protection", PROTECTABLE_GROUP: "protectable"}
_SCHEMAS = {
    "protect": "get_options_schema",
    "restore": "get_restore_schema",
    "verify": "get_verify_schema",
    "saved": "get_saved_info_schema",
}
_NOTES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("allowed", lambda values: "one of " + ", ".join(map(str, values))),
    ("enum", lambda values: "one of " + ", ".join(map(str, values))),
    ("min", lambda least: f"at least {least}" if least else ""),
    ("max", lambda most: f"at most {most}"),
    ("regex", lambda pattern: f"matches {pattern}"),
)
"""The rules of a schema that are said beside a field's meaning, and how."""


@dataclass
class _Found:
    """What is installed under one name."""

    name: str
    protection: Any = None
    protectable: Any = None
    types: list[str] = field(default_factory=list)
    distribution: str = ""
    fault: str = ""


def register(app: click.Group) -> None:
    """Add the commands to *app*."""

    @app.group()
    def plugins() -> None:
        """Look at the installed plugins."""

    command(plugins, "list", uses_banks=False)(_list)
    command(plugins, "show", uses_banks=False)(_show)


def _list(invocation: Invocation) -> None:
    """List the installed plugins with the resource types that they handle."""
    output = invocation.output
    found = [_find(name) for name in _names()]
    rows = [
        (
            one.name,
            ", ".join(kind for kind in _GROUPS.values() if getattr(one, kind) is not None),
            one.fault or ", ".join(one.types),
            one.distribution,
        )
        for one in found
    ]
    if rows:
        output.table(["plugin", "kinds", "types", "package"], rows)
    elif not output.is_json:
        output.note("no plugins are installed")
    output.document([_describe(one) for one in found])


@click.argument("name")
def _show(invocation: Invocation, name: str) -> None:
    """Show one plugin: its types, operations, and each schema as a table."""
    if name not in _names():
        load_plugin(PROTECTION_GROUP, name)  # says which names are known
    found = _find(name)
    if found.fault:
        raise PluginError(found.fault)
    output = invocation.output
    output.fields(
        [
            ("plugin", found.name),
            ("package", found.distribution),
            ("types", ", ".join(found.types)),
            ("found below", ", ".join(_parent_types(found))),
            ("operations", ", ".join(_operations(found.protection))),
        ]
    )
    for resource_type in found.types:
        for verb, schema in _schemas(found.protection, resource_type).items():
            _show_schema(output, resource_type, verb, schema)
    output.document(_describe(found, with_schemas=True))


def _names() -> list[str]:
    return sorted({entry.name for group in _GROUPS for entry in entry_points(group=group)})


def _find(name: str) -> _Found:
    found = _Found(name)
    for group, kind in _GROUPS.items():
        for entry in entry_points(group=group, name=name):
            if entry.dist is not None:
                found.distribution = f"{entry.dist.name} {entry.dist.version}"
            try:
                setattr(found, kind, instantiate(load_plugin(group, name)))
            except KarborError as error:
                found.fault = str(error)
    types: dict[str, None] = {}
    try:
        if found.protection is not None:
            types |= dict.fromkeys(found.protection.get_supported_resources_types())
        if found.protectable is not None:
            types[found.protectable.get_resource_type()] = None
    except Exception as error:  # plugin code: shown in place of its types
        found.fault = f"it does not say its types: {error}"
    found.types = list(map(str, types))
    return found


def _parent_types(found: _Found) -> list[str]:
    if found.protectable is None:
        return []
    parents = found.protectable.get_parent_resource_types()
    return [parents] if isinstance(parents, str) else list(parents)


def _operations(plugin: Any) -> list[str]:
    """Return the verbs that *plugin* itself has operations for."""
    verbs = []
    for verb in OperationType:
        method = getattr(type(plugin), f"get_{verb}_operation", None)
        inherited = getattr(ProtectionPlugin, f"get_{verb}_operation")
        if method is not None and method is not inherited:
            verbs.append(str(verb))
    return verbs


def _schemas(plugin: Any, resource_type: str) -> dict[str, Any]:
    """Return the schemas of one type that are not empty, by verb."""
    schemas = {}
    for verb, getter in _SCHEMAS.items():
        method = getattr(plugin, getter, None)
        if method is None:
            continue
        try:
            schema = method(resource_type)
        except NotImplementedError:
            continue
        if schema:
            schemas[verb] = schema
    return schemas


def _show_schema(output: Output, resource_type: str, verb: str, schema: Any) -> None:
    what = "what a checkpoint says of it" if verb == "saved" else f"parameters of {verb}"
    output.line(f"\n{shown(resource_type)}, {what}:", "bold")
    rows = []
    for name, rules in _fields(schema).items():
        notes = [
            _description(rules),
            *(note(rules[rule]) for rule, note in _NOTES if rule in rules),
        ]
        rows.append((name, _kind(rules), _default(rules), "; ".join(filter(None, notes))))
    if verb == "saved":
        output.table(["field", "type", "meaning"], [(row[0], row[1], row[3]) for row in rows])
    else:
        output.table(["field", "type", "default", "meaning"], rows)


def _kind(rules: Mapping[str, Any]) -> str:
    kind = rules.get("type", "any")
    text = kind if isinstance(kind, str) else " or ".join(map(str, kind))
    inner = rules.get("schema")
    if text == "list" and isinstance(inner, Mapping) and isinstance(inner.get("type"), str):
        return f"list of {inner['type']}"
    return text


def _fields(schema: Any) -> dict[str, dict[str, Any]]:
    """Return a schema's fields; one in Karbor's form has them below ``properties``."""
    fields = schema.get("properties", schema) if isinstance(schema, Mapping) else {}
    return {
        str(name): dict(rules) if isinstance(rules, Mapping) else {"type": str(rules)}
        for name, rules in fields.items()
    }


def _description(rules: Mapping[str, Any]) -> str:
    meta = rules.get("meta")
    inner = meta.get("description", "") if isinstance(meta, Mapping) else ""
    return str(inner or rules.get("description", "") or rules.get("title", ""))


def _default(rules: Mapping[str, Any]) -> str:
    if "default" in rules:
        default = rules["default"]
        if default is None:
            return "none"
        return str(default).lower() if isinstance(default, bool) else str(default)
    return "required" if rules.get("required") else ""


def _without_functions(value: Any) -> Any:
    """Return a schema without the rules that are the plugin's own code, which no JSON can hold."""
    if isinstance(value, Mapping):
        return {
            key: _without_functions(inner) for key, inner in value.items() if not callable(inner)
        }
    return [_without_functions(inner) for inner in value] if isinstance(value, list) else value


def _describe(found: _Found, *, with_schemas: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": found.name,
        "kinds": [kind for kind in _GROUPS.values() if getattr(found, kind) is not None],
        "types": found.types,
        "package": found.distribution,
    }
    if found.fault:
        document["fault"] = found.fault
    if with_schemas:
        document["found_below"] = _parent_types(found)
        document["operations"] = _operations(found.protection)
        document["schemas"] = {
            one: _without_functions(_schemas(found.protection, one)) for one in found.types
        }
        document["description"] = inspect.getdoc(type(found.protection)) or ""
    return document
