"""Sealed pages of the memory of ids: sorted hashes with their digests, and a filter that spares most searches. Pure.

Theory of operation: a bucket of the memory is a list of pages. A page has the ids from its lower bound up to that of
the next page; the first page begins at the lowest hash. So a bucket can be sealed part by part, and a late id still
finds its page.

A page is the hashes, one after the other in order, followed by the digests. Its filter is a Bloom filter of words of 64
bits: an id sets a few bits of one word, so that looking it up costs one word and one comparison. Words and bits come
from the end of a hash, because the hashes of one page begin alike. A filter never denies an id that the page has, and
wrongly admits about one foreign id in a hundred.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from amends.aggregates.intake import RememberedId

__all__ = [
    "DIGEST_BYTES",
    "FULL",
    "ID_BYTES",
    "LOWEST",
    "BucketFilter",
    "Probe",
    "filter_of",
    "find",
    "merged",
    "pack",
    "page_fault",
    "probes_of",
    "split",
    "unpack",
]

ID_BYTES = 16
"""Length of the hash of an id."""

DIGEST_BYTES = 8
"""Length of the digest of a message's content."""

FULL = 512
"""Largest number of ids in a page."""

LOWEST = bytes(ID_BYTES)
"""Lower bound of the first page of a bucket."""

FILTER_BITS = 12
"""Bits of a filter for each id of a full page."""

_WORD_BYTES = 8
_BIT = [1 << at for at in range(64)]


class Probe(NamedTuple):
    """An id to look up, with its place in any filter.

    Attributes:
        id_hash: The hash of the id.
        place: Place of its word, to be reduced to the number of words.
        mask: The bits that it sets.
    """

    id_hash: bytes
    place: int
    mask: int


def pack(ids: Sequence[RememberedId]) -> bytes:
    """Return a page of ids, which are in order of their hashes."""
    return b"".join([each.id_hash for each in ids]) + b"".join([each.digest for each in ids])


def unpack(page: bytes) -> list[RememberedId]:
    """Return the ids of a page."""
    count = len(page) // (ID_BYTES + DIGEST_BYTES)
    digests = count * ID_BYTES
    return [
        RememberedId(
            page[ID_BYTES * at : ID_BYTES * (at + 1)],
            page[digests + DIGEST_BYTES * at : digests + DIGEST_BYTES * (at + 1)],
        )
        for at in range(count)
    ]


def find(page: bytes, id_hash: bytes) -> bytes | None:
    """Return the digest of an id; `None` if the page does not have it."""
    digests = len(page) // (ID_BYTES + DIGEST_BYTES) * ID_BYTES
    at = page.find(id_hash, 0, digests)
    # The same bytes may also lie across two hashes.
    while at >= 0 and at % ID_BYTES:
        at = page.find(id_hash, at + 1, digests)
    if at < 0:
        return None
    start = digests + at // ID_BYTES * DIGEST_BYTES
    return page[start : start + DIGEST_BYTES]


def merged(present: Sequence[RememberedId], new: Sequence[RememberedId]) -> list[RememberedId]:
    """Return the ids of both in order; of two digests of one id, the earlier stays."""
    found = dict(new)
    found.update(present)
    return [RememberedId(*each) for each in sorted(found.items())]


def split(ids: Sequence[RememberedId]) -> list[Sequence[RememberedId]]:
    """Divide ids into as few pages as possible, all of about the same size."""
    pages = -(-len(ids) // FULL)
    return [ids[len(ids) * at // pages : len(ids) * (at + 1) // pages] for at in range(pages)]


def filter_of(ids: Sequence[RememberedId]) -> bytes:
    """Return the filter of a page."""
    words = array("Q", bytes(_WORD_BYTES * max(1, -(-len(ids) * FILTER_BITS // (8 * _WORD_BYTES)))))
    for each in ids:
        place, mask = _place(each.id_hash)
        words[place % len(words)] |= mask
    return _little(words).tobytes()


def _little(words: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words


def probes_of(id_hashes: Iterable[bytes]) -> list[Probe]:
    """Return what filters need to know about ids, for as many buckets as there are."""
    found = []
    for id_hash in id_hashes:
        place, mask = _place(id_hash)
        found.append(Probe(id_hash, place, mask))
    return found


def _place(id_hash: bytes) -> tuple[int, int]:
    """Return the place of an id's word, still without bound, and the five bits that the id sets."""
    tail = int.from_bytes(id_hash[-_WORD_BYTES:], "big")
    bit = _BIT
    mask = bit[tail & 63] | bit[tail >> 6 & 63] | bit[tail >> 12 & 63] | bit[tail >> 18 & 63] | bit[tail >> 24 & 63]
    return tail >> 30, mask


def page_fault(lower: bytes, page: bytes, words: bytes) -> str | None:
    """Return the problem of a page in a few words; `None` if it is in order.

    Args:
        lower: Lower bound of the page.
        page: The page.
        words: Its filter.
    """
    if not page or len(page) % (ID_BYTES + DIGEST_BYTES):
        return f"a page of {len(page)} bytes is no whole number of ids"
    ids = unpack(page)
    hashes = [each.id_hash for each in ids]
    if hashes != sorted(set(hashes)):
        return "its ids are not in order"
    if hashes[0] < lower:
        return "an id is below its lower bound"
    return None if words == filter_of(ids) else "its filter is not that of its ids"


class BucketFilter:
    """The filters of all pages of a bucket.

    Args:
        filters: The filters by the lower bound of their page.
    """

    __slots__ = ("_bounds", "_filters", "_words")

    def __init__(self, filters: Mapping[bytes, bytes]) -> None:
        self._filters: dict[bytes, array[int]] = {}
        self._bounds: list[bytes] = []
        self._words: list[array[int]] = []
        self.add(filters)

    def add(self, filters: Mapping[bytes, bytes]) -> None:
        """Add pages, or replace their filters."""
        for lower, raw in filters.items():
            self._filters[lower] = _little(array("Q", raw))
        self._bounds = sorted(self._filters)
        self._words = [self._filters[lower] for lower in self._bounds]

    def page_of(self, id_hash: bytes) -> bytes:
        """Return the lower bound of the page that an id belongs to, be it there or not."""
        at = bisect_right(self._bounds, id_hash)
        return self._bounds[at - 1] if at else LOWEST

    def candidates(self, probes: Iterable[Probe]) -> dict[bytes, list[bytes]]:
        """Return the ids that the bucket may have, by the lower bound of their page."""
        found: dict[bytes, list[bytes]] = {}
        bounds, filters = self._bounds, self._words
        if not bounds:
            return found
        for id_hash, place, mask in probes:
            # The first page begins at the lowest hash, so that there is always a page.
            at = bisect_right(bounds, id_hash) - 1
            words = filters[at]
            if words[place % len(words)] & mask == mask:
                found.setdefault(bounds[at], []).append(id_hash)
        return found
