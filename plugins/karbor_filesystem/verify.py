"""Verifying a directory's part of a checkpoint: the manifest against the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.plugins import Operation
from karbor_filesystem.data import StreamPages, fits
from karbor_filesystem.entries import Kind
from karbor_filesystem.errors import VerifyError, show
from karbor_filesystem.manifest import Manifest
from karbor_filesystem.report import Ticker

if TYPE_CHECKING:
    from karbor_actors.model import Resource

_SHOWN = 10
_COUNTED = ("files", "bytes", "bytes_stored")


class VerifyDirectory(Operation):
    """Checks that every file has its data; the engine checks the data's digests."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Compare the manifest with the streams, and with its own counts.

        Raises:
            VerifyError: Data is missing or of another size.
            ManifestError: The manifest is damaged or forged.
        """
        section = checkpoint.get_resource_bank_section(resource)
        manifest = Manifest(section)
        streams = StreamPages(section)
        ticker = Ticker(context)
        faults: list[str] = []
        wrong = files = size = stored = 0
        for entry in manifest.entries():
            ticker.entry()
            if entry.kind is not Kind.FILE:
                continue
            files += 1
            size += entry.size
            stored += entry.stored
            stream = streams.find(entry.stream) if entry.stored else None
            if not entry.stored or (stream is not None and fits(entry, stream.size)):
                continue
            wrong += 1
            if len(faults) < _SHOWN:
                held = "no stream" if stream is None else f"a stream of {stream.size} bytes"
                faults.append(f"{show(entry.name)} has {held} for its {entry.stored} bytes")
        claimed = (manifest.info.get("files"), manifest.bytes, manifest.stored)
        for field, counted, claim in zip(_COUNTED, (files, size, stored), claimed, strict=True):
            if counted != claim and (field, claim) != ("bytes_stored", None):
                wrong += 1
                faults.append(f"it has {counted} {field}, and claims {claim}")
        if faults:
            raise VerifyError(faults, wrong)
