"""What Cerberus finds wrong with values, said in plain words.

The value of a top-level field that is or holds a secret is never shown: somebody may have
put the secret itself there.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from cerberus import errors

from karbor_actors.errors import Fault, describe_cause, describe_value
from karbor_actors.plain import copy_plain
from karbor_actors.rules import REFERENCE_FAULT, mentions_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from karbor_actors.rules import PreparedSchema

    WhereOf = Callable[[str | None], str]

_TYPE_WORDS = {
    "boolean": "true or false",
    "dict": "a table",
    "float": "a number with a fraction",
    "integer": "an integer",
    "list": "a list",
    "number": "a number",
    "string": "a string",
}
_OTHER_WORDS = errors.BasicErrorHandler.messages


class ValueChecker:
    """Normalizes values by a prepared schema and says what is wrong with them.

    Any thread may use it.

    Args:
        schema: The prepared schema.
        what: What the values are for, as faults show it.
    """

    def __init__(self, schema: PreparedSchema, what: str) -> None:
        self._schema, self._what = schema, what
        self._secret = {str(name): mentions_secret(rules) for name, rules in schema.items()}

    def check(
        self, values: dict[str, Any], where_of: WhereOf
    ) -> tuple[dict[str, Any], list[Fault]]:
        """Return *values* normalized, and what is wrong with them.

        Args:
            values: Plain data; it is left as it is.
            where_of: Returns what a top-level field (or None, the whole) belongs to, as a
                fault shows it.
        """
        try:
            with self._schema.validator() as validator:
                validator.validate(copy_plain(values, "", []))
                found, document = list(_flat(validator._errors)), validator.document  # noqa: SLF001 - only these have codes
        except Exception as error:  # a check_with of the plugin's: reported as a fault
            reason = type(error).__name__ if any(self._secret.values()) else describe_cause(error)
            return {}, [Fault(where_of(None), f"cannot be checked: {reason}")]
        faults = [self._fault(error, where_of) for error in found]
        normalized = {}
        for name, value in ({} if faults else document).items():
            # A coerce may give anything, but the journal must be able to keep it.
            normalized[name] = copy_plain(value, f"{where_of(name)}.{name}", faults)
        return normalized, faults

    def _fault(self, found: Any, where_of: WhereOf) -> Fault:
        top = str(found.document_path[0]) if found.document_path else None
        hidden = top is None or self._secret.get(top, True)
        sentence = _sentence(found, self._schema, self._what, hidden=hidden)
        return Fault(_where(where_of(top), found.document_path), sentence)


def _flat(found: list[Any]) -> Iterator[Any]:
    """Yield errors without the groups that they stand in; a failed ``anyof`` is one error."""
    for error in sorted(found):
        if error.is_group_error and not error.is_logic_error:
            yield from _flat(error.child_errors)
        else:
            yield error


def _where(start: str, path: tuple[Any, ...]) -> str:
    return start + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _sentence(found: Any, schema: Mapping[str, Any], what: str, *, hidden: bool) -> str:
    """Return what is wrong, without a full stop."""
    if found.code == errors.UNKNOWN_FIELD.code:
        return _unknown(found.document_path, schema, what)
    but = "" if hidden else f", not {describe_value(found.value)}"
    limit = found.constraint
    match found.code:
        case errors.REQUIRED_FIELD.code:
            return "is required"
        case errors.NOT_NULLABLE.code:
            return "must not be None"
        case errors.BAD_TYPE.code:
            names = [limit] if isinstance(limit, str) else limit
            return f"must be {' or '.join(_TYPE_WORDS.get(n, f'of type {n}') for n in names)}{but}"
        case errors.UNALLOWED_VALUE.code | errors.UNALLOWED_VALUES.code:
            return f"must be one of {', '.join(map(describe_value, limit))}{but}"
        case errors.MIN_VALUE.code:
            return f"must be at least {limit}{but}"
        case errors.MAX_VALUE.code:
            return f"must be at most {limit}{but}"
        case errors.MIN_LENGTH.code:
            return f"must be at least {limit} long"
        case errors.MAX_LENGTH.code:
            return f"must be at most {limit} long"
        case errors.EMPTY_NOT_ALLOWED.code:
            return "must not be empty"
        case errors.REGEX_MISMATCH.code:
            return f"must match {limit}{but}"
        case errors.CUSTOM.code if REFERENCE_FAULT in found.info:
            return REFERENCE_FAULT
    return _other_sentence(found, but, hidden=hidden)


def _other_sentence(found: Any, but: str, *, hidden: bool) -> str:
    """Return a sentence for the rarer rules; Cerberus's own words where nothing is hidden."""
    if found.is_logic_error:
        return f"must fit the rule {found.rule}{but}"
    if hidden or found.code not in _OTHER_WORDS:
        return f"is refused by the rule {found.rule or 'check_with'}"
    words: str = _OTHER_WORDS[found.code].format(
        *found.info, constraint=found.constraint, field=found.field, value=found.value
    )
    return words


def _unknown(path: tuple[Any, ...], schema: Mapping[str, Any], what: str) -> str:
    sentence = f"is not a parameter of {what}" if len(path) == 1 else "is not a known field"
    if len(path) > 1:
        return sentence
    if not schema:
        return f"{sentence}, which takes none"
    near = difflib.get_close_matches(str(path[0]), [str(name) for name in schema], n=1)
    return f"{sentence} (did you mean {near[0]!r}?)" if near else sentence
