"""What a finished operation prints: lines and tables, or plain data for JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from karbor_actors import Checkpoint, RestoreResult, VerifyResult
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.text import human_bytes, human_seconds, plural, sentence, shown
from karbor_actors.errors import describe_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from karbor_actors import OperationHandle
    from karbor_actors.cli.output import Output

_SHOWN_RESOURCES = 50
_INCOMPLETE = "incomplete"
"""What a plugin reports of a resource that it restored but for some damaged parts."""


def show_checkpoint(
    output: Output, checkpoint: Checkpoint, handle: OperationHandle, seconds: float
) -> None:
    """Print the checkpoint that a protect or a copy made."""
    count = plural(len(checkpoint.resource_graph), "resource")
    finish(
        output,
        checkpoint,
        handle,
        f"checkpoint {checkpoint.id}: {checkpoint.status}, {count}",
        seconds,
    )


def show_restore(
    output: Output, result: RestoreResult, handle: OperationHandle, seconds: float
) -> ExitCode:
    """Print what a restore made; return PARTIAL if a plugin reported something incomplete."""
    made = [(key[0], key[1], new) for key, new in result.new_resources.items()]
    if len(made) <= _SHOWN_RESOURCES:
        output.table(["type", "was", "is now"], made)
    for key, (status, reason) in result.reports.items():
        output.line(sentence(f"{describe_key(key)} is {status}: {reason}".rstrip(": ")), "yellow")
    statuses = ", ".join(
        f"{n:,} {status}" for status, n in Counter(result.resources.values()).items()
    )
    finish(output, result, handle, f"restored: {statuses}", seconds)
    is_whole = all(status != _INCOMPLETE for status, _ in result.reports.values())
    return ExitCode.OK if is_whole else ExitCode.PARTIAL


def show_evidence(output: Output, result: VerifyResult) -> None:
    """Print what a verify found of each resource; of many, only those that failed."""
    rows = []
    for key, status in result.resources.items():
        found = result.evidence.get(key)
        if found is None:
            rows.append((*key, status, "", "", ""))
        else:
            size = human_bytes(found.bytes)
            rows.append((*key, status, f"{found.records:,}", f"{found.blocks:,}", size))
    bad = [row for row in rows if row[2] == "failed"]
    chosen = rows if len(rows) <= _SHOWN_RESOURCES else bad[:_SHOWN_RESOURCES]
    if chosen:
        output.table(["type", "id", "status", "records", "blocks", "read"], chosen)


def finish(
    output: Output, result: object, handle: OperationHandle, text: str, seconds: float
) -> None:
    """Print the last line about an operation that succeeded, or its JSON document."""
    output.line(f"{shown(text)}, {human_seconds(seconds)}")
    operation = {"id": handle.id, "type": str(handle.type), "status": str(handle.status)}
    document = {"operation": {**operation, "seconds": round(seconds, 3)}}
    output.document({**document, "result": describe_result(result)})


def describe_result(result: object) -> Any:
    """Return an operation's result as plain data for ``--json``."""
    match result:
        case Checkpoint():
            return result.to_dict()
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
