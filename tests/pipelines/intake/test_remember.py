"""Memories of messages: each answers as a model that keeps everything, and buckets expire no earlier than promised."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from amends.aggregates.intake import RememberedId
from amends.pipelines.intake import remember
from amends.pipelines.intake.remember import GAP_MOST, IdMemory, Known, NumberMemory, id_hash

KEYS = st.sampled_from("ab")


@dataclass
class Message:
    """The parts of a message that memories use."""

    id: str = "1"
    key: str = "a"
    hash: bytes = b""
    digest: bytes = b"12345678"
    sequence: int | None = None
    subject: Any = None


class Ids(RuleBasedStateMachine):
    """The memory of ids over many batches, each of which begins with the ids of the batches before."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, bytes] = {}
        self.stored: dict[bytes, bytes] = {}
        self.memory = IdMemory({})

    @rule(name=st.sampled_from("abcde"), digest=st.sampled_from([b"1" * 8, b"2" * 8]))
    def message(self, name: str, digest: bytes) -> None:
        """Learn a message: an id is new once, and equal content makes it the same message."""
        message = Message(id=name, hash=id_hash(name), digest=digest)
        expected = Known.NEW if name not in self.model else Known.SAME if self.model[name] == digest else Known.OTHER
        assert self.memory.known(message) is expected
        if expected is Known.NEW:
            self.model[name] = digest
            self.memory.learn(message)

    @rule()
    def commit(self) -> None:
        """Store what the batch has learnt: no id that is known already."""
        assert not self.stored.keys() & self.memory.new.keys()
        self.stored |= {each.id_hash: each.digest for each in self.memory.new.values()}
        self.memory = IdMemory(dict(self.stored))


class Numbers(RuleBasedStateMachine):
    """The memory of sequence numbers, against a set of the numbers that were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, set[int]] = {"a": set(), "b": set()}
        self.last: dict[str, int] = {}
        self.ids: dict[bytes, RememberedId] = {}
        self.memory = NumberMemory({}, {})

    @rule(key=KEYS, number=st.integers(0, 12))
    def message(self, key: str, number: int) -> None:
        """Learn a number: each has one effect, in any order; those before the first one of a key count as taken."""
        taken = self.taken[key]
        expected = Known.SAME if number in taken or (taken and number < min(taken)) else Known.NEW
        message = Message(key=key, sequence=number)
        assert self.memory.known(message) is expected
        if expected is Known.NEW:
            taken.add(number)
            self.memory.learn(message)

    @rule()
    def commit(self) -> None:
        """Store what the batch has learnt."""
        self.last |= self.memory.numbers
        self.ids |= self.memory.new
        self.memory = NumberMemory(dict(self.last), {name: each.digest for name, each in self.ids.items()})


TestIds = Ids.TestCase
TestNumbers = Numbers.TestCase


def test_gaps_are_counted_once() -> None:
    """A producer that leaves out numbers is counted once for each of them, although a late one comes after all."""
    memory = NumberMemory({"a": 3}, {})
    for number in (6, 4, 8):
        memory.learn(Message(sequence=number))
    assert memory.gaps == 3
    assert memory.numbers == {"a": 8}


def test_a_large_gap_is_a_jump() -> None:
    """A gap that the memory cannot hold is no gap, because late messages of it would be lost."""
    memory = NumberMemory({"a": 3}, {})
    assert memory.known(Message(sequence=GAP_MOST + 4)) is Known.NEW
    assert memory.known(Message(sequence=GAP_MOST + 5)) is Known.JUMP


@given(st.integers(60_000_000, 10**13), st.integers(0, 10**9), st.timedeltas(timedelta(minutes=1), timedelta(days=90)))
def test_an_id_is_kept_for_as_long_as_promised(at_ms: int, later_ms: int, keep: timedelta) -> None:
    """A bucket is forgotten only when every partition has been read up to `remember` after its last id."""
    kept = remember.bucket_of(at_ms, keep) >= remember.forget_before(at_ms + later_ms, keep)
    assert kept or timedelta(milliseconds=later_ms) > keep


@given(st.integers(60_000_000, 10**13), st.timedeltas(timedelta(minutes=1), timedelta(days=90)))
def test_a_forgotten_id_is_recognised_as_too_old(at_ms: int, keep: timedelta) -> None:
    """The time of a message whose bucket was forgotten lies before the horizon, and one inside the promise does not."""
    horizon = remember.forget_before(at_ms, keep)
    assert remember.start_ms_of(horizon) <= max(0, at_ms - keep // timedelta(milliseconds=1))
    assert remember.bucket_of(remember.start_ms_of(horizon), keep) == horizon


@given(st.integers(10**9, 10**13), st.timedeltas(timedelta(minutes=1), timedelta(days=90)))
def test_a_bucket_is_sealed_after_the_clocks_of_all_workers_have_left_it(now_ms: int, keep: timedelta) -> None:
    """A worker whose clock is five minutes behind still adds to an open bucket."""
    assert remember.bucket_of(now_ms - 5 * 60_000, keep) >= remember.seal_before(now_ms, keep)


def test_hashes_of_ids_numbers_and_gaps_differ() -> None:
    """No two kinds of memory can take each other's hashes for their own."""
    hashes = {remember.id_hash("5/a"), remember.number_hash("a", 5), remember.gap_hash("a", 5)}
    assert len(hashes) == 3
    assert {len(each) for each in hashes} == {remember.ID_BYTES}
