"""Parameters against schemas: merged, normalized and checked before anything runs.

Pure but for reading secrets; a result never changes and may be used from any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import msgpack

from karbor_actors.errors import (
    BankFormatError,
    Fault,
    ParametersError,
    PluginError,
    describe_key,
    describe_value,
)
from karbor_actors.findings import ValueChecker
from karbor_actors.plain import checked_parameters, copy_plain
from karbor_actors.rules import (
    PreparedSchema,
    Schema,
    plugin_schema,
    prepare_schema,
    resolve_secrets,
    secret_fields,
    translate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from karbor_actors.graph import ResourceGraph
    from karbor_actors.plain import Parameters

    SchemaFor = Callable[[str], Schema | None]
    GivenParameters = Mapping[str, Mapping[str, Any]]

__all__ = [
    "ResourceParameters",
    "Schema",
    "merge_call_parameters",
    "plugin_schema",
    "prepare_schema",
    "resolve_secrets",
    "secret_fields",
    "translate",
    "validate_parameters",
    "validate_saved_info",
]


_NO_FIELDS = b"\x80"
_DAMAGE = (TypeError, ValueError, LookupError, AttributeError, msgpack.UnpackException)
"""What unpacking and looking into damaged data may raise."""


class ResourceParameters:
    """What each resource's hooks get as ``parameters``; made by :func:`validate_parameters`.

    Equal parameters are kept once, however many resources have them.
    """

    __slots__ = ("_by_type", "_given", "_graph", "_has_fields", "_own", "_schemas", "_values")

    def __init__(
        self,
        graph: ResourceGraph,
        schemas: Mapping[str, Schema | None],
        values: Sequence[bytes],
        by_type: dict[str, int],
        own: dict[int, int],
        given: Iterable[str],
    ) -> None:
        self._graph = graph
        self._schemas = {t: schema for t, schema in schemas.items() if secret_fields(schema)}
        self._values, self._by_type, self._own = list(values), by_type, own
        self._has_fields = any(packed != _NO_FIELDS for packed in self._values)
        self._given = frozenset(given)

    def for_resource(self, number: int) -> dict[str, Any]:
        """Return a fresh dict of the parameters of a resource, secrets as references."""
        place = self._own.get(number)
        if place is None:
            place = self._by_type[self._graph.nodes[number].type]
        packed = self._values[place]
        if packed == _NO_FIELDS:
            return {}
        fields: dict[str, Any] = msgpack.unpackb(packed, unicode_errors="surrogateescape")
        return fields

    def resolved(self, number: int) -> dict[str, Any]:
        """Return a fresh dict of the parameters of a resource, with the secrets themselves.

        Raises:
            ParametersError: A secret cannot be read now.
        """
        if not self._has_fields:
            return {}
        resource = self._graph.nodes[number]
        fields, schema = self.for_resource(number), self._schemas.get(resource.type)
        return fields if schema is None else resolve_secrets(schema, fields, str(resource))

    def check_secrets(self) -> None:
        """See that each secret can be read: else hooks would fail that have nothing to do with it.

        Raises:
            ParametersError: Those that cannot be read now.
        """
        faults: dict[str, Fault] = {}
        seen: set[tuple[str, int]] = set()
        for number, resource in enumerate(self._graph.nodes) if self._schemas else ():
            place = (resource.type, self._own.get(number, -1))
            if place in seen:
                continue
            seen.add(place)
            try:
                self.resolved(number)
            except ParametersError as error:
                faults |= {fault.where: fault for fault in error.faults}
        if faults:
            raise ParametersError(list(faults.values()))

    def with_secrets(self, schemas: Mapping[str, Schema | None]) -> Self:
        """Return the same parameters, with the fields secret that *schemas* say are."""
        own, by_type = dict(self._own), dict(self._by_type)
        return type(self)(self._graph, schemas, self._values, by_type, own, self._given)

    def is_default(self, number: int) -> bool:
        """Return whether nothing was given for a resource, so that it has its schema's defaults."""
        return number not in self._own and self._graph.nodes[number].type not in self._given

    def to_data(self) -> dict[str, Any]:
        """Return all of it as plain data, for the journal; secrets are references in it."""
        return {
            "values": list(self._values),
            "types": dict(self._by_type),
            "own": [number for pair in self._own.items() for number in pair],
            "given": sorted(self._given),
        }

    @classmethod
    def from_data(cls, graph: ResourceGraph, data: Any, schema_for: SchemaFor) -> Self:
        """Return what :meth:`to_data` described; nothing is validated or normalized again.

        Args:
            graph: The graph that the parameters were made for.
            data: What :meth:`to_data` returned.
            schema_for: As for :func:`validate_parameters`; it says what is secret.

        Raises:
            BankFormatError: The data is damaged.
        """
        schemas = {
            resource_type: _prepared(schema_for, resource_type) for resource_type in graph.types
        }
        try:
            values = list(map(_checked_value, data["values"]))
            places = range(len(values))
            by_type = {str(key): places[place] for key, place in data["types"].items()}
            pairs = zip(data["own"][::2], data["own"][1::2], strict=True)
            own = {number: places[place] for number, place in pairs}
            made = cls(graph, schemas, values, by_type, own, data["given"])
            for number in range(len(graph)):
                made.for_resource(number)
        except _DAMAGE as error:
            msg = f"the stored parameters are damaged: {error}"
            raise BankFormatError(msg) from error
        return made


def _checked_value(packed: object) -> bytes:
    if not isinstance(packed, bytes) or not isinstance(
        msgpack.unpackb(packed, unicode_errors="surrogateescape"), dict
    ):
        msg = "a value is no table"
        raise TypeError(msg)
    return packed


def validate_parameters(
    graph: ResourceGraph,
    parameters: GivenParameters | None,
    schema_for: SchemaFor,
    *,
    what: str = "protect",
) -> ResourceParameters:
    """Merge, normalize and check the parameters of an operation.

    Each distinct set of parameters of a type is checked once, not once per resource.

    Args:
        graph: The operation's resources.
        parameters: By resource type, and by ``type#id`` for what is laid over those, field
            by field. A type that the provider handles need not have a resource in the graph.
        schema_for: Returns the schema of a type's parameters, best one that was prepared
            once (:func:`plugin_schema`), or None if any are taken. LookupError means that
            no plugin handles the type.
        what: The operation, for errors.

    Raises:
        ParametersError: All that is wrong, at once.
        PluginError: *schema_for* raised it, or returned no schema.
    """
    faults: list[Fault] = []
    by_type, own = _sorted_out(graph, checked_parameters(parameters, faults), faults)
    schemas: dict[str, PreparedSchema | None] = {}
    for resource_type in dict.fromkeys((*graph.types, *by_type)):
        try:
            schemas[resource_type] = _prepared(schema_for, resource_type)
        except LookupError:
            faults.append(Fault(resource_type, "is a type that no plugin handles"))
    counts = Counter(resource.type for resource in graph.nodes) if own else Counter()
    values: list[bytes] = []
    type_places: dict[str, int] = {}
    own_places: dict[int, int] = {}
    for resource_type, schema in schemas.items():
        numbers = own.get(resource_type, {})
        merge = _TypeMerge(resource_type, by_type.get(resource_type, {}), schema, what, values)
        # If each resource has its own, what is given for the type need not suffice by itself.
        if not numbers or len(numbers) < counts[resource_type]:
            type_places[resource_type] = merge.place("", {})
        for number, overlay in numbers.items():
            own_places[number] = merge.place(graph.nodes[number].id, overlay)
        faults += merge.faults
    _raise_first_at_each_place(faults)
    given = (resource_type for resource_type, fields in by_type.items() if fields)
    return ResourceParameters(graph, schemas, values, type_places, own_places, given)


def unchecked_parameters(
    graph: ResourceGraph, parameters: GivenParameters | None, schema_for: SchemaFor
) -> ResourceParameters:
    """Return the parameters as they were given, for undoing what was begun with them.

    They fit the schemas of the release that began; secrets that *schema_for* still tells are
    resolved. See :func:`validate_parameters`.

    Raises:
        ParametersError: They are no parameters at all.
    """
    made = validate_parameters(graph, parameters, lambda _: None)
    known: dict[str, Schema | None] = {}
    for resource_type in graph.types:
        with suppress(LookupError, PluginError):
            known[resource_type] = _prepared(schema_for, resource_type)
    return made.with_secrets(known)


def _raise_first_at_each_place(faults: list[Fault]) -> None:
    """Raise a ParametersError if there is a fault; what follows at a place only repeats it."""
    first: dict[str, Fault] = {}
    for fault in faults:
        first.setdefault(fault.where, fault)
    if first:
        raise ParametersError(list(first.values()))


def _prepared(schema_for: SchemaFor, resource_type: str) -> PreparedSchema | None:
    schema = schema_for(resource_type)
    return None if schema is None else prepare_schema(schema, "the plugin", resource_type)


def _sorted_out(
    graph: ResourceGraph, given: Parameters, faults: list[Fault]
) -> tuple[Parameters, dict[str, dict[int, dict[str, Any]]]]:
    """Return what is given by type, and by type and resource's number."""
    by_type: Parameters = {}
    own: dict[str, dict[int, dict[str, Any]]] = {}
    for key, fields in given.items():
        resource_type, sharp, resource_id = key.partition("#")
        if not sharp:
            by_type[resource_type] = fields
        elif (resource_type, resource_id) in graph:
            number = graph.number((resource_type, resource_id))
            own.setdefault(resource_type, {})[number] = fields
        else:
            faults.append(Fault(key, "is not in the resource graph"))
    return by_type, own


class _TypeMerge:
    """Lays resources' own parameters over their type's; checks each distinct result once."""

    def __init__(
        self,
        resource_type: str,
        fields: Mapping[str, Any],
        schema: PreparedSchema | None,
        what: str,
        values: list[bytes],
    ) -> None:
        self._type, self._fields, self._values = resource_type, fields, values
        self._schema, self._what = schema, what
        self._checker: ValueChecker | None = None
        self._places: dict[bytes, int] = {}
        self.faults: list[Fault] = []

    def place(self, resource_id: str, overlay: Mapping[str, Any]) -> int:
        """Return the place in *values* of the type's fields with a resource's over them."""
        merged = {**self._fields, **overlay}
        place = self._places.setdefault(packed := _packed(merged), len(self._values))
        if place < len(self._values):
            return place

        def where_of(field: str | None) -> str:
            return describe_key((self._type, resource_id)) if field in overlay else self._type

        if self._schema or (self._schema is not None and merged):  # else nothing can be wrong
            if self._checker is None:
                self._checker = ValueChecker(self._schema, f"{self._type} in {self._what}")
            merged, faults = self._checker.check(merged, where_of)
            self.faults += faults
            packed = _packed(merged)
        self._values.append(packed)
        return place


def _packed(fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    return packed


def merge_call_parameters(
    plan_parameters: GivenParameters | None, call_parameters: GivenParameters | None
) -> Parameters:
    """Return a plan's parameters with a call's laid over them.

    Under each key (``type`` or ``type#id``) the call's fields replace the plan's of the
    same name, and the plan's others stay.

    Raises:
        ParametersError: Either has the wrong shape.
    """
    faults: list[Fault] = []
    merged = checked_parameters(plan_parameters, faults)
    for key, fields in checked_parameters(call_parameters, faults).items():
        merged[key] = {**merged.get(key, {}), **fields}
    if faults:
        raise ParametersError(faults)
    return merged


def validate_saved_info(schema: Schema | None, info: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a plugin's ``get_saved_info`` returned, normalized; None is an empty dict.

    Args:
        schema: The plugin's saved info schema; None takes any plain data.
        info: What the plugin returned.

    Raises:
        PluginError: It does not fit the schema.
    """
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        msg = f"get_saved_info() returned {describe_value(info)}, not a dict"
        raise PluginError(msg)
    faults: list[Fault] = []
    values: dict[str, Any] = copy_plain(info, "saved info", faults)
    if not faults and schema is not None:
        prepared = prepare_schema(schema, "the plugin", "saved info")
        values, faults = ValueChecker(prepared, "the saved info").check(
            values, lambda _: "saved info"
        )
    if faults:
        msg = f"the saved info is not valid: {'; '.join(map(str, faults))}"
        raise PluginError(msg)
    return values
