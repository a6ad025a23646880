"""What a power cut leaves of an LMDB data file. Pure."""

from __future__ import annotations

import random

PAGE = 4096
_METAS = 2


def tear(before: bytes, after: bytes, seed: int) -> bytes:
    """Return a data file in which only some of a commit's pages were written.

    The two pages that say which state counts are as before: LMDB writes them last, after a sync.

    Args:
        before: The file before the commit.
        after: The file after it.
        seed: Decides which pages.
    """
    pages = range(_METAS, max(len(before), len(after)) // PAGE)
    rng = random.Random(f"{seed}-torn")  # noqa: S311 - must replay
    torn = bytearray(before)
    for page in pages:
        start, end = page * PAGE, (page + 1) * PAGE
        new = after[start:end]
        if new != before[start:end] and rng.random() < 0.5:  # noqa: PLR2004 - half of them
            if len(torn) < end:
                torn.extend(bytes(end - len(torn)))
            torn[start:end] = new
    return bytes(torn)
