"""How many MB per second does the directory plugin protect and restore?

A tree of files of mixed sizes, half of their bytes random and half text, beside
`tar | zstd -3 -T0` into one file, and back. Each ends durable: ours as it always does, the pipes
with one sync at their end. 1 MB is 1,000,000 bytes of the tree's files.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import Bank, Plan, ProtectionService, Provider, Resource
from karbor_filesystem import DirectoryProtectable, DirectoryProtection

if TYPE_CHECKING:
    import argparse

OURS, TAR = "karbor_actors", "tar | zstd -3 -T0, one sync"
KIB, MIB = 1 << 10, 1 << 20
MIX = ((4 * KIB, 0.05), (64 * KIB, 0.15), (MIB, 0.30), (32 * MIB, 0.50))
"""The size of files, and the share of all bytes that are in such files."""
FILES_PER_FOLDER = 200
PIECE = 8 * KIB
"""Text and random bytes alternate in pieces of this size."""
DIRECTORY_TYPE = "FileSystem::Directory"


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case; the tree is made once."""
    make_tree(arguments.tree, round(arguments.size * 1e6))
    parameters = {"tree": arguments.tree, "workers": arguments.workers}
    return [measuring.Case(f"{arguments.size:g} MB", (OURS, TAR), parameters)]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Protect the tree and restore it elsewhere."""
    tree, directory = parameters["tree"], parameters["directory"]
    restored = os.path.join(directory, "restored")
    size, files = contents_of(tree)  # also brings the tree into memory
    os.sync()  # what others left to write is not this run's
    if system == OURS:
        seconds, stored = protect_and_restore(tree, restored, directory, parameters["workers"])
    else:
        seconds, stored = tar_and_untar(tree, restored, directory)
    if contents_of(restored) != (size, files):
        raise RuntimeError(f"{system} restored something else than it protected")
    amounts = dict.fromkeys(seconds, size / 1e6)
    return measuring.Measured(seconds, amounts, {"files": files, "stored_mb": stored / 1e6})


def protect_and_restore(
    tree: str, restored: str, directory: str, workers: int
) -> tuple[dict[str, float], int]:
    """Return the seconds, and the bytes of the bank."""
    bank = os.path.join(directory, "bank")
    with ProtectionService(workers=workers) as service:
        service.add_provider(
            Provider(
                "bench",
                bank=Bank.open(bank),
                protection_plugins=[DirectoryProtection()],
                protectables=[DirectoryProtectable()],
            )
        )
        began = time.perf_counter()
        plan = Plan("a tree", "bench", [Resource(DIRECTORY_TYPE, tree)])
        checkpoint = service.protect(plan).result()
        protected = time.perf_counter()
        stored = contents_of(bank)[0]
        restoring = time.perf_counter()
        target = {DIRECTORY_TYPE: {"target": restored}}
        service.restore(checkpoint.id, parameters=target).result()
        ended = time.perf_counter()
    return {"protect": protected - began, "restore": ended - restoring}, stored


def tar_and_untar(tree: str, restored: str, directory: str) -> tuple[dict[str, float], int]:
    """Return the seconds, and the bytes of the archive."""
    archive = os.path.join(directory, "archive.tar.zst")
    os.mkdir(restored)
    began = time.perf_counter()
    shell('tar -C "$1" -cf - . | zstd -q -3 -T0 -o "$2" && sync "$2"', tree, archive)
    protected = time.perf_counter()
    shell('zstd -q -d -c "$2" | tar -C "$1" -xf - && sync -f "$1"', restored, archive)
    ended = time.perf_counter()
    seconds = {"protect": protected - began, "restore": ended - protected}
    return seconds, os.path.getsize(archive)


def shell(script: str, *arguments: str) -> None:
    """Run *script* in bash; any command of a pipe that fails is an error."""
    subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", script, "bash", *arguments], check=True)


def contents_of(directory: str) -> tuple[int, int]:
    """Read every file below *directory*; return their bytes and their number."""
    size = files = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                while piece := file.read(MIB):
                    size += len(piece)
            files += 1
    return size, files


def make_tree(tree: str, size: int) -> None:
    """Make files of *size* bytes in all below *tree*; no two pieces of them are equal."""
    rng = random.Random(1)
    vocabulary = [rng.randbytes(rng.randint(1, 6)).hex() for _ in range(5_000)]
    text = " ".join(rng.choices(vocabulary, k=1_000_000)).encode()
    number = 0
    for file_size, share in MIX:
        left = round(size * share)
        while left > 0:
            folder = os.path.join(tree, f"{number // FILES_PER_FOLDER:04}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, f"{number:06}.bin"), "wb") as file:
                _fill(file, min(file_size, left), text, rng)
            left -= file_size
            number += 1


def _fill(file: Any, size: int, text: bytes, rng: random.Random) -> None:
    while size > 0:
        # Half of each piece, so that small files are mixed too.
        half = min(PIECE // 2, (size + 1) // 2)
        start = rng.randrange(len(text) - half)
        file.write((rng.randbytes(half) + text[start : start + half])[:size])
        size -= 2 * half


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--size", type=float, default=1000, help="of the tree, in MB (%(default)s)")
    parser.add_argument("--workers", type=int, default=16, help="threads (%(default)s)")
    arguments = parser.parse_args()
    for command in ("bash", "tar", "zstd", "sync"):
        if shutil.which(command) is None:
            sys.exit(f"bench_filesystem.py needs the command {command}; install it")
    if arguments.one_run is not None:
        measuring.run(arguments, "filesystem", "MB/s", cases, measure)
        return
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir=arguments.directory) as tree:
        arguments.tree = os.path.join(os.path.realpath(tree), "tree")
        measuring.run(arguments, "filesystem", "MB/s", cases, measure)


if __name__ == "__main__":
    main()
