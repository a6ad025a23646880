"""Schemas of parameters: what plugins give, and what Cerberus is told.

A plugin gives a Cerberus schema (field name -> rules) or, as Karbor's do, a JSON Schema,
which is translated. Besides Cerberus's own there is one rule: ``secret: True`` (or
``meta: {secret: True}``) marks a field that takes only a reference to a secret,
``env:NAME`` or ``file:PATH``, which is read when a hook runs. All in here is pure but
:func:`resolve_secrets`; any thread may call it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cerberus

from karbor_actors.errors import Fault, ParametersError, PluginError, describe_cause

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("karbor_actors.schema")

Schema = dict[str, Any]
"""A Cerberus schema: field name -> rules; or one in Karbor's JSON Schema form."""

_JSON_TYPES = {"array": "list", "object": "dict"}
_TYPES = {*cerberus.Validator.types_mapping, *_JSON_TYPES}
_REFERENCE = re.compile(r"env:[^=\0]+|file:[^\0]+", re.DOTALL)
_COMBINED = re.compile(r"(any|all|none|one)of(_.*)?")
_MAX_SECRET = 1 << 20
"""Bytes that a secret's file may have."""

REFERENCE_FAULT = "takes no secret itself, but where it is: env:NAME or file:PATH"


class SchemaValidator(cerberus.Validator):  # type: ignore[misc]
    """Cerberus's validator with the rule ``secret``; not safe from several threads."""

    def _validate_secret(self, secret: bool, field: str, value: object) -> None:
        """{'type': 'boolean'}"""  # noqa: D415 - Cerberus reads this as the rule's own schema
        is_reference = isinstance(value, str) and _REFERENCE.fullmatch(value)
        if secret and value is not None and not is_reference:
            self._error(field, REFERENCE_FAULT)


class PreparedSchema(Schema):
    """A schema that was translated and checked, with the validators that were made of it.

    Those take longer to make than to use. Any thread may ask for one.
    """

    def __init__(self, rules: Schema) -> None:
        super().__init__(rules)
        self._validators: list[SchemaValidator] = []

    @contextmanager
    def validator(self) -> Iterator[SchemaValidator]:
        """Give a validator that nobody else uses meanwhile."""
        try:
            validator = self._validators.pop()
        except IndexError:
            validator = SchemaValidator(dict(self))
        yield validator
        self._validators.append(validator)  # not one in which something was raised


def is_json_schema(schema: Mapping[str, Any]) -> bool:
    """Tell a schema in Karbor's form from one of Cerberus's."""
    if schema.get("type") == "object":
        return True
    fields = schema.get("properties")
    return isinstance(fields, Mapping) and all(isinstance(f, Mapping) for f in fields.values())


def translate(schema: Mapping[str, Any], warnings: list[str] | None = None) -> Schema:
    """Return *schema* as a Cerberus schema; one that is a Cerberus schema is only copied.

    From JSON Schema these are kept: types, enum, defaults, nested properties and items. A
    default of None only makes its field nullable and is not filled in: Karbor never did, and
    its plugins mean different things by None and by nothing. Unknown keywords are ignored.

    Args:
        schema: In either form.
        warnings: Takes a sentence for each thing that is left out on purpose.
    """
    if not is_json_schema(schema):
        return {name: _lifted(rules) for name, rules in schema.items()}
    warnings = [] if warnings is None else warnings
    fields = _translated_fields(schema, "", warnings)
    for name, rules in fields.items():
        if "default" in rules and not SchemaValidator({name: rules}).validate({}):
            warnings.append(f"the default of {name} does not fit its own rules and is left out")
            del rules["default"]
    return fields


def _translated_fields(schema: Mapping[str, Any], where: str, warnings: list[str]) -> Schema:
    required = schema.get("required")
    if isinstance(required, (list, tuple)) and required:
        names = ", ".join(where + str(name) for name in required)
        warnings.append(f"required is not enforced, as Karbor never did: {names}")
    properties = schema.get("properties") or {}
    return {
        name: _translated(rules, f"{where}{name}", warnings) for name, rules in properties.items()
    }


def _translated(schema: Any, where: str, warnings: list[str]) -> Schema:
    """Return one field's JSON Schema as Cerberus rules."""
    if not isinstance(schema, Mapping):
        return {}
    rules: Schema = {}
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else list(types)
    known = [_JSON_TYPES.get(name, name) for name in types if name in _TYPES]
    if len(known) == 1:
        rules["type"] = known[0]
    elif known:
        rules["type"] = known
    default = schema.get("default")
    if default is not None:
        rules["default"] = default
    allowed = schema.get("enum")
    if isinstance(allowed, (list, tuple)):
        rules["allowed"] = list(allowed)
    if "null" in types or None in rules.get("allowed", ()) or schema.get("default", 0) is None:
        rules["nullable"] = True
    if isinstance(schema.get("properties"), Mapping):
        rules["schema"] = _translated_fields(schema, f"{where}.", warnings)
    items = schema.get("items")
    if isinstance(items, Mapping):
        rules["schema"] = _translated(items, f"{where}[]", warnings)
    if schema.get("required") is True:
        warnings.append(f"required is not enforced, as Karbor never did: {where}")
    if _is_marked_secret(schema):
        rules["secret"] = True
    return rules


def _is_marked_secret(rules: Mapping[str, Any]) -> bool:
    meta = rules.get("meta")
    return rules.get("secret") is True or (isinstance(meta, Mapping) and meta.get("secret") is True)


def _lifted(rules: Any) -> Any:
    """Return a field's Cerberus rules with ``meta: {secret: True}`` made the rule that it means."""
    if not isinstance(rules, Mapping):
        return rules
    lifted = dict(rules)
    if _is_marked_secret(rules):
        lifted["secret"] = True
    for key in ("schema", "valuesrules"):
        if key in rules:
            lifted[key] = _lifted_inner(rules, key)
    if isinstance(rules.get("items"), (list, tuple)):
        lifted["items"] = [_lifted(item) for item in rules["items"]]
    return lifted


def _lifted_inner(rules: Mapping[str, Any], key: str) -> Any:
    inner = rules[key]
    if key == "schema" and isinstance(inner, Mapping) and _has_fields(rules):
        return {name: _lifted(value) for name, value in inner.items()}
    return _lifted(inner)


def _has_fields(rules: Mapping[str, Any]) -> bool:
    """Tell whether the rule ``schema`` of *rules* is about a dict's fields, not a list's items."""
    if "type" in rules:
        return bool(rules["type"] == "dict")
    return all(isinstance(value, Mapping) for value in rules["schema"].values())


def prepare_schema(schema: Any, plugin: str, resource_type: str) -> PreparedSchema:
    """Return a plugin's schema, translated and checked, once; warnings are logged.

    Args:
        schema: What the plugin gave.
        plugin: The plugin's name, for errors.
        resource_type: The type that the schema is for.

    Raises:
        PluginError: It is no schema.
    """
    if isinstance(schema, PreparedSchema):
        return schema
    about = f"the schema of {plugin} for {resource_type}"
    if not isinstance(schema, Mapping):
        msg = f"{about} is of type {type(schema).__name__}, not a dict"
        raise PluginError(msg)
    warnings: list[str] = []
    try:
        prepared = translate(schema, warnings)
        SchemaValidator(prepared)
    except Exception as error:  # a plugin's schema: reported to the caller with the plugin's name
        msg = f"{about} is not valid: {describe_cause(error)}"
        raise PluginError(msg) from error
    if any(_hides_secret(rules) for rules in prepared.values()):
        msg = f"{about} is not valid: a secret field cannot stand inside anyof and its like"
        raise PluginError(msg)
    for warning in warnings:
        logger.warning("%s: %s", about, warning)
    return PreparedSchema(prepared)


def plugin_schema(plugin: Any, getter: str, resource_type: str) -> PreparedSchema | None:
    """Return what a plugin's *getter* (``get_options_schema``, ...) says, translated and checked.

    None means that the plugin says nothing about its parameters, so that any are taken: it has
    no such method, or that returns None or raises NotImplementedError. An empty schema takes
    none.

    Raises:
        PluginError: The getter failed, or returned what is no schema.
    """
    name = type(plugin).__name__
    method = getattr(plugin, getter, None)
    if method is None:
        return None
    try:
        schema = method(resource_type)
    except NotImplementedError:
        return None
    except Exception as error:  # plugin code: reported to the caller with the plugin's name
        msg = f"{getter}() of {name} failed for {resource_type}: {describe_cause(error)}"
        raise PluginError(msg) from error
    return None if schema is None else prepare_schema(schema, name, resource_type)


def mentions_secret(rules: Any) -> bool:
    """Tell whether a field, or any field within it, is marked secret."""
    if isinstance(rules, Mapping):
        return _is_marked_secret(rules) or any(map(mentions_secret, rules.values()))
    return isinstance(rules, (list, tuple)) and any(map(mentions_secret, rules))


def _hides_secret(rules: Any) -> bool:
    """Tell whether there is a secret where :func:`resolve_secrets` does not look for one."""
    if not isinstance(rules, Mapping):
        return isinstance(rules, (list, tuple)) and any(map(_hides_secret, rules))
    return any(
        mentions_secret(inner) if _COMBINED.fullmatch(str(key)) else _hides_secret(inner)
        for key, inner in rules.items()
    )


def _inner_rules(rules: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each key of a dict or place of a list, and the rules for what it holds."""
    inner = rules.get("schema")
    if isinstance(value, dict):
        fields = inner if isinstance(inner, Mapping) else {}
        for key in value:
            yield key, fields.get(key, rules.get("valuesrules"))
    else:
        items = rules.get("items", ())
        for place in range(len(value)):
            yield place, items[place] if place < len(items) else inner


def secret_fields(schema: Schema | None) -> tuple[str, ...]:
    """Return the top-level fields of a prepared schema that are, or hold, secrets."""
    return tuple(name for name, rules in (schema or {}).items() if mentions_secret(rules))


def resolve_secrets(
    schema: Schema | None, parameters: dict[str, Any], where: str = ""
) -> dict[str, Any]:
    """Return *parameters* with every reference to a secret replaced by the secret.

    Reads the environment and files; a file's last line end is left out.

    Args:
        schema: The prepared schema.
        parameters: What it accepted; left as it is.
        where: What the parameters are for, as errors show it.

    Raises:
        ParametersError: Secrets that cannot be read: which fields and why, never a value.
    """
    faults: list[Fault] = []
    resolved = dict(parameters)
    for name in secret_fields(schema):
        if name in parameters and schema is not None:
            path = f"{where}.{name}" if where else name
            resolved[name] = _resolved(schema[name], parameters[name], path, faults)
    if faults:
        raise ParametersError(faults)
    return resolved


def _resolved(rules: Any, value: Any, where: str, faults: list[Fault]) -> Any:
    if not isinstance(rules, Mapping):
        return value
    if rules.get("secret") is True:
        return _read_secret(value, where, faults) if isinstance(value, str) else value
    if not isinstance(value, (dict, list)):
        return value
    found = value.copy()
    for place, inner in _inner_rules(rules, value):
        path = f"{where}[{place}]" if isinstance(value, list) else f"{where}.{place}"
        found[place] = _resolved(inner, value[place], path, faults)
    return found


def _read_secret(reference: str, where: str, faults: list[Fault]) -> str:
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name not in os.environ:
            faults.append(Fault(where, f"the environment has no variable {name}"))
        return os.environ.get(name, "")
    try:
        with open(name, "rb") as file:
            content = file.read(_MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        faults.append(Fault(where, f"the file {name} cannot be read: {describe_cause(error)}"))
        return ""
    if len(content) > _MAX_SECRET:
        faults.append(Fault(where, f"the file {name} is larger than {_MAX_SECRET} bytes"))
    return re.sub(r"\r?\n\Z", "", content.decode("utf-8", "surrogateescape"))
