"""Looking at trees, and making them; import as ``plugins.trees``."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 64 << 10
"""Bytes that are surely a hole where nothing was written."""


def describe(path: Path | str | bytes) -> dict[bytes, dict[str, Any]]:
    """Return all that a restore must give back of a tree, by relative path."""
    root = os.fsencode(path)
    found: dict[bytes, dict[str, Any]] = {}
    first_names: dict[tuple[int, int], bytes] = {}
    pending = [b"."]
    while pending:
        relative = pending.pop()
        fd = _open_by_parts(root, relative)
        try:
            if relative == b".":
                found[relative] = _common(os.fstat(fd), fd)
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                key = relative + b"/" + name
                found[key] = _describe_one(fd, name, key, first_names)
                if found[key]["type"] == stat.S_IFDIR:
                    pending.append(key)
        finally:
            os.close(fd)
    return found


def _open_by_parts(root: bytes, relative: bytes) -> int:
    """Open a directory whose path may be longer than the system takes at once."""
    fd = os.open(root, os.O_RDONLY)
    for name in relative.split(b"/")[1:]:
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = inner
    return fd


def _common(status: os.stat_result, where: int | bytes) -> dict[str, Any]:
    names = os.listxattr(where, follow_symlinks=isinstance(where, int))
    return {
        "type": stat.S_IFMT(status.st_mode),
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "mtime": status.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(where, name, follow_symlinks=isinstance(where, int))
            for name in sorted(names)
        },
    }


def _describe_one(
    fd: int, name: bytes, key: bytes, first_names: dict[tuple[int, int], bytes]
) -> dict[str, Any]:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    one = _common(status, b"/proc/self/fd/%d/%s" % (fd, name))
    if stat.S_ISREG(status.st_mode):
        inner = os.open(name, os.O_RDONLY | os.O_NOATIME, dir_fd=fd)
        with os.fdopen(inner, "rb") as file:
            one["content"] = file.read()
        one["is_sparse"] = status.st_size - status.st_blocks * 512 >= BLOCK
    elif stat.S_ISLNK(status.st_mode):
        one["target"] = os.readlink(name, dir_fd=fd)
    elif not stat.S_ISDIR(status.st_mode):
        one["device"] = status.st_rdev
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        one["same as"] = first_names.setdefault((status.st_dev, status.st_ino), key)
    return one


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
MODES = st.integers(0, 0o7777)
TIMES = st.integers(-(2**31) * 10**9, 2**34 * 10**9 - 1)
"""What ext4 holds: from 1901 to 2446."""
ATTRIBUTES = st.dictionaries(
    st.binary(min_size=1, max_size=10).filter(lambda name: b"\0" not in name),
    st.binary(max_size=30),
    max_size=2,
)
CONTENTS = st.lists(
    st.one_of(st.binary(max_size=300), st.just(None), st.integers(1, 5000)), max_size=4
)
"""Pieces of a file: bytes, a hole, or so many bytes of one kind."""


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """What a name in a tree may stand for."""
    kinds = ["file", "file", "symlink", "fifo", "link", *(["directory"] * 2 if depth else [])]
    kind = draw(st.sampled_from(kinds))
    node: dict[str, Any] = {
        "kind": kind,
        "mode": draw(MODES),
        "owner": draw(st.tuples(st.integers(0, 70_000), st.integers(0, 70_000))),
        "mtime": draw(TIMES),
    }
    if kind == "file":
        node |= {"content": draw(CONTENTS), "xattrs": draw(ATTRIBUTES)}
    elif kind == "symlink":
        node["target"] = draw(st.binary(min_size=1, max_size=60).filter(lambda t: b"\0" not in t))
    elif kind == "link":
        node["which"] = draw(st.integers(0, 100))
    elif kind == "directory":
        node["xattrs"] = draw(ATTRIBUTES)
        node["names"] = draw(st.dictionaries(NAMES, nodes(depth=depth - 1), max_size=5))
    return node


def trees() -> st.SearchStrategy[dict[bytes, dict[str, Any]]]:
    """What a directory may hold, by name."""
    return st.dictionaries(NAMES, nodes(), max_size=6)


def make_tree(root: bytes, names: dict[bytes, dict[str, Any]]) -> None:
    """Make in *root* what *names* say."""
    made: list[bytes] = []
    directories: list[tuple[bytes, dict[str, Any]]] = []
    pending = [(root, names)]
    while pending:
        directory, inner = pending.pop()
        for name, node in inner.items():
            path = directory + b"/" + name
            _make_one(path, node, made)
            if node["kind"] == "directory":
                directories.append((path, node))
                pending.append((path, node["names"]))
    for path, node in reversed(directories):
        _set_common(path, node)


def _make_one(path: bytes, node: dict[str, Any], made: list[bytes]) -> None:
    kind = node["kind"]
    if kind == "directory":
        os.mkdir(path)
        return
    if kind == "link" and made:
        os.link(made[node["which"] % len(made)], path, follow_symlinks=False)
        return
    if kind == "symlink":
        os.symlink(node["target"], path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        _write(path, node.get("content", []))
    made.append(path)
    _set_common(path, node)


def _write(path: bytes, pieces: list[bytes | int | None]) -> None:
    with open(path, "wb") as file:
        for piece in pieces:
            if piece is None:
                file.seek(2 * BLOCK, os.SEEK_CUR)
            else:
                file.write(piece if isinstance(piece, bytes) else b"x" * piece)
        file.truncate(file.tell())


def _set_common(path: bytes, node: dict[str, Any]) -> None:
    os.chown(path, *node["owner"], follow_symlinks=False)
    for name, value in node.get("xattrs", {}).items():
        os.setxattr(path, b"user." + name, value, follow_symlinks=False)
    if node["kind"] != "symlink":
        os.chmod(path, node["mode"])
    os.utime(path, ns=(node["mtime"], node["mtime"]), follow_symlinks=False)
