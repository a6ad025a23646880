"""What a finished operation prints: lines and tables, or plain data for JSON."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from karbor_actors import Checkpoint, ResourceStatus, RestoreResult, VerifyResult
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.output import PrintError
from karbor_actors.cli.text import human_bytes, human_seconds, plural, sentence, shown
from karbor_actors.errors import BankClosedError, describe_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from karbor_actors import OperationHandle
    from karbor_actors.cli.output import Output

_SHOWN_RESOURCES = 50
_INCOMPLETE = "incomplete"
"""What a plugin reports of a resource that it restored but for some damaged parts."""
_LOOKED_AT = (ResourceStatus.VERIFIED, ResourceStatus.ENGINE_ONLY)
_UNUSUAL = {
    ResourceStatus.EMPTY: "nothing of it was saved",
    ResourceStatus.SKIPPED: "its plugin has no operation for this, so that nobody did it",
}


def show_checkpoint(
    output: Output, checkpoint: Checkpoint, handle: OperationHandle, seconds: float
) -> None:
    """Print the checkpoint that a protect or a copy made."""
    statuses = checkpoint.resource_statuses()
    _name_unusual(output, statuses)
    count = plural(len(statuses), "resource")
    if unusual := _counts(status for status in statuses.values() if status in _UNUSUAL):
        count += f" ({unusual})"
    text = f"checkpoint {checkpoint.id}: {checkpoint.status}, {count}"
    finish(output, checkpoint, handle, text, seconds)


def _name_unusual(output: Output, statuses: Mapping[Any, ResourceStatus]) -> None:
    """Print which resources are good and yet not done, unless they are many."""
    unusual = [(key, status) for key, status in statuses.items() if status in _UNUSUAL]
    for key, status in unusual[:_SHOWN_RESOURCES]:
        output.line(f"{shown(describe_key(key))} is {status}: {_UNUSUAL[status]}", "yellow")


def _counts(statuses: Iterable[ResourceStatus]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in Counter(statuses).items())


def show_restore(
    output: Output, result: RestoreResult, handle: OperationHandle, seconds: float
) -> ExitCode:
    """Print what a restore made; return PARTIAL if a plugin reported something incomplete."""
    made = [(key[0], key[1], new) for key, new in result.new_resources.items()]
    if len(made) <= _SHOWN_RESOURCES:
        output.table(["type", "was", "is now"], made)
    for key, (status, reason) in result.reports.items():
        output.line(sentence(f"{describe_key(key)} is {status}: {reason}".rstrip(": ")), "yellow")
    _name_unusual(output, result.resources)
    finish(output, result, handle, f"restored: {_counts(result.resources.values())}", seconds)
    is_whole = all(status != _INCOMPLETE for status, _ in result.reports.values())
    return ExitCode.OK if is_whole and not is_skipping(result.resources) else ExitCode.PARTIAL


def is_skipping(statuses: Mapping[Any, ResourceStatus]) -> bool:
    """Return whether there is something that nobody restored, verified or copied."""
    return ResourceStatus.SKIPPED in statuses.values()


def show_evidence(output: Output, result: VerifyResult) -> None:
    """Print what a verify found of each resource; of many, only those that are not verified."""
    rows = []
    for key, status in result.resources.items():
        found = result.evidence.get(key)
        if found is None:
            rows.append((*key, status, "", "", ""))
        else:
            size = human_bytes(found.bytes)
            rows.append((*key, status, f"{found.records:,}", f"{found.blocks:,}", size))
    bad = [row for row in rows if row[2] not in _LOOKED_AT]
    chosen = rows if len(rows) <= _SHOWN_RESOURCES else bad[:_SHOWN_RESOURCES]
    if chosen:
        output.table(["type", "id", "status", "records", "blocks", "read"], chosen)


def finish(
    output: Output, result: object, handle: OperationHandle, text: str, seconds: float
) -> None:
    """Print the last line about an operation that succeeded, or its JSON document."""
    operation = {"id": handle.id, "type": str(handle.type), "status": str(handle.status)}
    document = {"operation": {**operation, "seconds": round(seconds, 3)}}
    try:
        output.line(f"{shown(text)}, {human_seconds(seconds)}")
        output.document({**document, "result": describe_result(result)})
        output.flush()
    except PrintError as error:
        error.made = text
        raise


def describe_result(result: object) -> Any:
    """Return an operation's result as plain data for ``--json``."""
    match result:
        case Checkpoint():
            document = result.to_dict()
            with contextlib.suppress(BankClosedError):  # what failed is told after that
                document["resources"] = _statuses(result.resource_statuses())
            return document
        case RestoreResult():
            return {
                "checkpoint_id": result.checkpoint_id,
                "new_resources": [
                    {"type": key[0], "id": key[1], "new": new}
                    for key, new in result.new_resources.items()
                ],
                "resources": _statuses(result.resources),
                "reports": [
                    {"type": key[0], "id": key[1], "status": status, "reason": reason}
                    for key, (status, reason) in result.reports.items()
                ],
            }
        case VerifyResult():
            resources = _statuses(result.resources)
            for entry, key in zip(resources, result.resources, strict=True):
                if (found := result.evidence.get(key)) is not None:
                    entry |= {
                        name: getattr(found, name)
                        for name in ("records", "streams", "blocks", "bytes", "errors")
                    }
            return {"checkpoint_id": result.checkpoint_id, "resources": resources}
    return None


def _statuses(statuses: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [
        {"type": key[0], "id": key[1], "status": str(status)} for key, status in statuses.items()
    ]
