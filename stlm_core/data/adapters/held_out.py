"""Which good images go to the test split of a dataset that has no official one."""

from __future__ import annotations

import hashlib

_SHARE = 0.2


def held_out(name: str) -> bool:
    """Whether the image, or the physical part, called ``name`` is one of the 20 % that are kept for the test.

    Decided by a hash of the name alone: the same on every machine, whatever other images there are or come later.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < _SHARE * 2**64
