"""How much faster is the second protect of many files, when none has changed?

Files of random bytes, all of one size, 100 to a directory, all in memory when the first protect begins.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import Bank, Plan, ProtectionService, Provider, Resource
from karbor_filesystem import DirectoryProtectable, DirectoryProtection

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
FILES_PER_FOLDER = 100
FIRST, SECOND = "first", "second"


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case; the tree is made once."""
    make_tree(arguments.tree, arguments.size, arguments.file_size)
    parameters = {"tree": arguments.tree, "files": arguments.size}
    return [
        measuring.Case(f"{arguments.size:,} files of {arguments.file_size:,}", (OURS,), parameters)
    ]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Protect the tree twice."""
    seconds = {}
    for folder, _, names in os.walk(parameters["tree"]):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                file.read()
    os.sync()  # what others left to write is not this run's
    with ProtectionService() as service:
        service.add_provider(
            Provider(
                "bench",
                bank=Bank.open(f"{parameters['directory']}/bank"),
                protection_plugins=[DirectoryProtection()],
                protectables=[DirectoryProtectable()],
            )
        )
        plan = Plan("files", "bench", [Resource("FileSystem::Directory", parameters["tree"])])
        for which in (FIRST, SECOND):
            began = time.perf_counter()
            service.protect(plan).result()
            seconds[which] = time.perf_counter() - began
    figures = {"first / second": seconds[FIRST] / seconds[SECOND]}
    return measuring.Measured(seconds, dict.fromkeys(seconds, parameters["files"]), {}, figures)


def make_tree(tree: str, count: int, size: int) -> None:
    """Make *count* files of *size* bytes below *tree*."""
    rng = random.Random(1)
    for number in range(count):
        folder = os.path.join(tree, f"{number // FILES_PER_FOLDER:04}")
        if number % FILES_PER_FOLDER == 0:
            os.makedirs(folder)
        with open(os.path.join(folder, f"{number:06}"), "wb") as file:
            file.write(rng.randbytes(size))


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--size", type=int, default=100_000, help="files (%(default)s)")
    parser.add_argument("--file-size", type=int, default=8_192, help="bytes of each (%(default)s)")
    arguments = parser.parse_args()
    if arguments.one_run is not None:
        measuring.run(arguments, "unchanged", "files/s", cases, measure)
        return
    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=arguments.directory) as tree:
        arguments.tree = os.path.join(os.path.realpath(tree), "tree")
        measuring.run(arguments, "unchanged", "files/s", cases, measure)


if __name__ == "__main__":
    main()
