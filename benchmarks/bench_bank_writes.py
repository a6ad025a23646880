"""How many durable writes per second does a bank take, from one thread and from many?

Ours are `section.update_object` (an object under a key) and `bank.writer.write` (a plain row),
which return when they are durable; and `bank.writer.submit`, which does not wait: then each thread
waits once, after all of its own. Beside them py-lmdb alone, one thread, with as many rows in
each synced transaction as the bank's writer committed together on average, and, for one thread,
a synced transaction for each row. And as many threads that only make their rows and append them to
a list: telling cannot take less, and whatever then writes the rows takes as long as py-lmdb alone.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import lmdb
import measuring
import msgpack

from karbor_actors import Bank, Plan, Resource
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.writer import Put
from karbor_actors.graph import build_graph

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

OBJECTS, ROWS = "karbor_actors, update_object", "karbor_actors, writer.write"
TELLS = "karbor_actors, writer.submit and one wait"
LISTED = "threads that append to a list, unwritten"
GROUPED, SINGLE = "py-lmdb, grouped alike", "py-lmdb, one transaction each"
VALUE = "x" * 100
WARM_UP = 50
MAP_SIZE = 1 << 30
WRITES = "durable writes"


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return one case for each number of threads."""
    made = []
    for threads in arguments.threads:
        name = f"{threads} thread{'s' * (threads > 1)}"
        parameters = {"threads": threads, "writes": arguments.size}
        # A peer's groups are as large as those of the first system of its case.
        peers = (GROUPED, SINGLE) if threads == 1 else (GROUPED,)
        made += [
            measuring.Case(f"{name}, asking", (ROWS, OBJECTS, *peers), parameters),
            measuring.Case(f"{name}, telling", (TELLS, GROUPED, LISTED), parameters),
        ]
    return made


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Write all rows once."""
    threads, directory = parameters["threads"], parameters["directory"]
    writes = max(parameters["writes"] // threads, 1) * threads
    if system == LISTED:
        seconds = append_to_list(threads, writes)
        return measuring.Measured({WRITES: seconds}, {WRITES: writes})
    if system in (OBJECTS, ROWS, TELLS):
        seconds, notes = write_to_bank(directory, threads, writes, system)
    else:
        group = 1 if system == SINGLE else max(round(notes.get("mean_group", 1)), 1)
        seconds, notes = write_to_lmdb(directory, writes, group), {"mean_group": group}
    each = {"us a write": seconds / writes * 1e6} if threads == 1 else {}
    figures = {**each, "writes to a commit": float(notes["mean_group"])}
    return measuring.Measured({WRITES: seconds}, {WRITES: writes}, notes, figures)


def write_to_bank(
    directory: str, threads: int, writes: int, system: str
) -> tuple[float, dict[str, Any]]:
    """Return the seconds that *threads* took together, and how many writes shared a commit."""
    resource = Resource("Bench::Thing", "1")
    path = os.path.join(directory, "bank")
    with Bank.open(path) as bank:
        plan = Plan("writes", "bench", [resource])
        graph = build_graph([resource], lambda _: [])
        made = bank.create_checkpoint(plan=plan.to_dict(), provider="bench", graph=graph)
    commits = commits_of(path)
    faults: list[BaseException] = []

    def heard(_: object, fault: BaseException | None) -> None:
        if fault is not None:
            faults.append(fault)

    with Bank.open(path) as bank:
        checkpoint = bank.checkpoint(made.id).view(is_writable=True)
        section = checkpoint.get_resource_bank_section(resource)
        row = msgpack.packb(VALUE)

        def update(key: str) -> None:
            section.update_object(key, VALUE)

        def ask(key: str) -> None:
            bank.writer.write(Put(Table.META, key.encode(), row))

        def tell(key: str) -> None:
            bank.writer.submit(Put(Table.META, key.encode(), row), heard)

        def flush() -> None:
            if system == TELLS:
                bank.writer.write(lambda _: None)

        write = {OBJECTS: update, ROWS: ask, TELLS: tell}[system]
        in_threads(ask, 1, WARM_UP, "warm-up")
        seconds = in_threads(write, threads, writes, "key", flush)
    if faults:
        raise RuntimeError(f"{len(faults)} writes failed: {faults[0]}")
    # Warm-up writes are alone in theirs; opening the bank adds one or two.
    commits = commits_of(path) - commits - WARM_UP
    return seconds, {"mean_group": writes / commits}


def append_to_list(threads: int, writes: int) -> float:
    """Return the seconds in which *threads* threads make rows and append them to a list."""
    rows: list[tuple[bytes, bytes]] = []
    value = msgpack.packb(VALUE)

    def append(key: str) -> None:
        rows.append((key.encode(), value))

    in_threads(append, 1, WARM_UP, "warm-up")
    return in_threads(append, threads, writes, "key")


def commits_of(path: str) -> int:
    """Return how many transactions the file of the closed bank at *path* has seen."""
    with lmdb.Environment(
        os.path.join(path, "bank.lmdb"), readonly=True, max_dbs=1, lib_version=0
    ) as environment:
        count: int = environment.info()["last_txnid"]
        return count


def in_threads(
    write: Callable[[str], None],
    threads: int,
    writes: int,
    name: str,
    flush: Callable[[], None] = lambda: None,
) -> float:
    """Return the seconds in which *threads* threads make *writes* writes together.

    Each calls *flush* after its own.
    """
    start = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        start.wait()
        for count in range(writes // threads):
            write(f"{name}-{number:03}-{count:08}")
        flush()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def write_to_lmdb(directory: str, writes: int, group: int) -> float:
    """Return the seconds that *writes* rows take, *group* to a synced transaction."""
    row = msgpack.packb(VALUE)
    # A bank's file has the 0.9 format; compare with the same.
    with lmdb.Environment(
        os.path.join(directory, "lmdb"), map_size=MAP_SIZE, max_dbs=1, lib_version=0
    ) as environment:
        table = environment.open_db(b"rows")

        def write(name: str, total: int) -> None:
            for first in range(0, total, group):
                with environment.begin(write=True, db=table) as transaction:
                    for count in range(first, min(first + group, total)):
                        transaction.put(f"{name}-000-{count:08}".encode(), row)

        write("warm-up", WARM_UP)
        began = time.perf_counter()
        write("key", writes)
        return time.perf_counter() - began


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument("--size", type=int, default=6_400, help="writes in all (%(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 64], help="that write (1 and 64)"
    )
    arguments = parser.parse_args()
    if arguments.size < 1 or min(arguments.threads) < 1:
        parser.error("--size and --threads must be at least 1")
    measuring.run(arguments, "bank_writes", "writes/s", cases, measure)


if __name__ == "__main__":
    main()
