"""Sealed pages of ids against a dictionary: nothing is lost or invented, whatever the order in which ids come."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from amends.aggregates.id_pages import (
    FULL,
    LOWEST,
    BucketFilter,
    filter_of,
    find,
    merged,
    pack,
    page_fault,
    probes_of,
    split,
    unpack,
)
from amends.aggregates.intake import RememberedId

# Hashes of few different bytes: they are near each other, repeat, and lie across the borders of a page's hashes.
NEAR = st.lists(st.sampled_from([b"\0", b"\1", b"\xff"]), min_size=16, max_size=16).map(b"".join)
HASHES = NEAR | st.binary(min_size=16, max_size=16)
DIGESTS = st.binary(min_size=8, max_size=8)
IDS: SearchStrategy[dict[bytes, bytes]] = st.dictionaries(HASHES, DIGESTS, max_size=60)


def page_of(ids: dict[bytes, bytes]) -> list[RememberedId]:
    """Return ids in order."""
    return [RememberedId(*each) for each in sorted(ids.items())]


def many(count: int, start: int = 0) -> list[RememberedId]:
    """Return ids of hashes as they are, in order."""
    hashes = sorted(hashlib.sha256(str(n).encode()).digest() for n in range(start, start + count))
    return [RememberedId(raw[:16], raw[16:24]) for raw in hashes]


@given(IDS, st.lists(HASHES, max_size=20))
def test_a_page_finds_exactly_its_ids(ids: dict[bytes, bytes], others: list[bytes]) -> None:
    """It returns the digest of each of its ids and of no other, and unpacking gives the ids again."""
    page = pack(page_of(ids))
    assert unpack(page) == page_of(ids)
    assert {each: find(page, each) for each in [*ids, *others]} == {each: ids.get(each) for each in [*ids, *others]}


@given(IDS, st.lists(HASHES, max_size=20))
def test_a_filter_never_denies_an_id_of_its_page(ids: dict[bytes, bytes], others: list[bytes]) -> None:
    """Each id is a candidate of its page; an empty bucket has none."""
    bucket = BucketFilter({LOWEST: filter_of(page_of(ids))})
    found = bucket.candidates(probes_of([*ids, *others]))
    assert set(ids) <= set(found.get(LOWEST, []))
    assert BucketFilter({}).candidates(probes_of(others)) == {}
    assert BucketFilter({}).page_of(b"\xff" * 16) == LOWEST


def test_a_filter_denies_nearly_all_other_ids() -> None:
    """Of ids that a full page does not have, at most three in a hundred are candidates."""
    bucket = BucketFilter({LOWEST: filter_of(many(FULL))})
    others = [each.id_hash for each in many(20_000, FULL)]
    assert len(bucket.candidates(probes_of(others))[LOWEST]) < len(others) * 0.03


@given(IDS, IDS)
def test_merging_keeps_both_and_the_earlier_digest(present: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    """The merged page equals a dictionary that was filled in the same order."""
    assert merged(page_of(present), page_of(new)) == page_of({**new, **present})


@given(st.integers(1, 5 * FULL))
def test_splitting_fills_pages_evenly(count: int) -> None:
    """Pages keep order and ids, are as few as possible, and none is nearly empty next to a full one."""
    ids = many(count)
    pages = split(ids)
    assert [each for page in pages for each in page] == ids
    assert len(pages) == -(-count // FULL)
    assert max(map(len, pages)) - min(map(len, pages)) <= 1


@given(IDS.filter(bool), st.data())
def test_a_changed_byte_of_a_page_is_a_fault_or_another_digest(ids: dict[bytes, bytes], data: st.DataObject) -> None:
    """A sound page has no fault; ids out of order or of another filter are one."""
    page, words = pack(page_of(ids)), filter_of(page_of(ids))
    assert page_fault(LOWEST, page, words) is None
    assert page_fault(LOWEST, page[:-1], words) is not None
    assert page_fault(b"\xff" * 16, page, words) is None or min(ids) < b"\xff" * 16
    at = data.draw(st.integers(0, len(words) - 1))
    changed = words[:at] + bytes([words[at] ^ 1]) + words[at + 1 :]
    assert page_fault(LOWEST, page, changed) == "its filter is not that of its ids"
    doubled = pack(page_of(ids)[:1] * 2)
    assert page_fault(LOWEST, doubled, words) == "its ids are not in order"
