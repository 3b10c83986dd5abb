"""The judge of a batch: every message ends in one count, and no message takes effect twice or out of order."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from amends.aggregates.intake import HeldKind
from amends.pipelines.intake.arrival import Arrival
from amends.pipelines.intake.audit import arrived
from amends.pipelines.intake.judge import Judge, Scene, Verdict
from amends.pipelines.intake.modes import Mode
from amends.pipelines.intake.remember import IdMemory, NoMemory, id_hash
from amends.pipelines.source import RawMessage


def arrival(
    position: int, name: str, key: str = "k", *, digest: bytes = b"1" * 8, source_ms: int | None = None
) -> Arrival:
    """Create a message."""
    raw = RawMessage(position, key.encode(), b"{}", (), source_ms)
    return Arrival(raw, name, key, id_hash(name), digest)


class Batches(RuleBasedStateMachine):
    """Many batches of one partition, against a model that only knows effects and held keys."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0
        self.known: dict[bytes, bytes] = {}
        self.held: dict[str, HeldKind] = {}
        self.effects: dict[str, bytes] = {}
        self.blocked: set[str] = set()

        self.begin()

    @rule()
    def commit(self) -> None:
        """End a batch: its counts add up to its messages, and the store has what it learnt."""
        assert arrived(self.judge.account.counts()) == self.count
        self.known |= {each.id_hash: each.digest for each in self.memory.new.values()}
        for each in self.judge.held:
            if each.key and each.kind is not HeldKind.UNDECODABLE:
                self.held.setdefault(each.key, each.kind)
        self.begin()

    def begin(self) -> None:
        """Begin a batch."""
        self.memory = IdMemory(dict(self.known))
        self.judge = Judge(
            Scene(partition="0", first=self.position, highest=self.position, held=self.held), self.memory
        )
        self.count = 0

    @rule(
        name=st.sampled_from("abcdef"),
        key=st.sampled_from("xyz"),
        digest=st.sampled_from([b"1" * 8, b"2" * 8]),
        fails=st.booleans(),
        unreadable=st.booleans(),
    )
    def message(self, name: str, key: str, digest: bytes, *, fails: bool, unreadable: bool) -> None:
        """Judge a message, and compare its treatment with the model's."""
        message = arrival(self.position, name, key, digest=digest)
        if unreadable:
            message.fault = "not JSON"
        self.position += 1
        self.count += 1
        verdict = self.judge.verdict(message)
        assert verdict is self.expected(message, unreadable=unreadable)
        if verdict is not Verdict.APPLY:
            self.judge.settle(message, verdict)
        elif fails:
            self.judge.set_aside(message, HeldKind.FAILED, "ValueError")
        else:
            self.judge.applied(message)
            self.effects[name] = digest
        if verdict in (Verdict.CONFLICT, Verdict.FOLLOWER) or (verdict is Verdict.APPLY and fails):
            self.blocked.add(key)

    def expected(self, message: Arrival, *, unreadable: bool) -> Verdict:
        """Return the treatment by the model."""
        if unreadable:
            return Verdict.FAULT
        if message.id in self.effects:
            return Verdict.REPEATED if self.effects[message.id] == message.digest else Verdict.CONFLICT
        return Verdict.FOLLOWER if message.key in self.blocked else Verdict.APPLY


TestBatches = Batches.TestCase


def one(scene: Scene, message: Arrival, known: dict[bytes, bytes] | None = None) -> Verdict:
    """Return the verdict about the first message of a batch."""
    return Judge(scene, IdMemory(known or {})).verdict(message)


def test_a_message_before_the_range_was_delivered_again() -> None:
    """A source that goes back on its own changes nothing, whatever the message is."""
    scene = Scene(partition="0", first=10, highest=10)
    assert one(scene, arrival(9, "a")) is Verdict.REDELIVERED
    assert one(scene, arrival(10, "a")) is Verdict.APPLY


def test_a_known_message_below_the_highest_position_is_replayed() -> None:
    """After an operator has moved the position back, known messages are replayed and new ones applied."""
    scene = Scene(partition="0", first=2, highest=10, held_positions=frozenset({4}))
    known = {id_hash("a"): b"1" * 8}
    assert one(scene, arrival(3, "a"), known) is Verdict.REPLAYED
    assert one(scene, arrival(3, "b"), known) is Verdict.APPLY
    assert one(scene, arrival(4, "b"), known) is Verdict.REPLAYED  # it is held, so it keeps its place
    assert one(scene, arrival(11, "a"), known) is Verdict.REPEATED


def test_a_message_is_too_old_only_if_its_id_may_be_forgotten() -> None:
    """Before the horizon an unknown message is set aside; a known one, and one without anything forgotten, is not."""
    horizon = Scene(partition="0", first=5, highest=5, horizon_ms=1_000)
    assert one(horizon, arrival(5, "a", source_ms=999)) is Verdict.TOO_OLD
    assert one(horizon, arrival(5, "a", source_ms=1_000)) is Verdict.APPLY
    assert one(horizon, arrival(5, "a", source_ms=999), {id_hash("a"): b"1" * 8}) is Verdict.REPEATED
    assert one(Scene(partition="0", first=5, highest=5), arrival(5, "a", source_ms=0)) is Verdict.APPLY


def test_a_message_without_a_time_is_too_old_only_when_it_is_read_again() -> None:
    """Sources without times are judged by their positions."""
    horizon = Scene(partition="0", first=5, highest=7, horizon_ms=1_000)
    assert one(horizon, arrival(6, "a")) is Verdict.TOO_OLD
    assert one(horizon, arrival(7, "a")) is Verdict.APPLY


def test_deferring_keeps_the_order_of_a_key() -> None:
    """While a key has a deferred message, later ones are deferred, even after the pipeline is no longer busy."""
    deferring = Judge(Scene(partition="0", deferring=True), IdMemory({}))
    first = arrival(0, "a")
    assert deferring.verdict(first) is Verdict.DEFERRED
    deferring.settle(first, Verdict.DEFERRED)
    assert deferring.held[0].kind is HeldKind.DEFERRED
    assert deferring.account.counts().deferred == 1
    assert one(Scene(partition="0", held={"k": HeldKind.DEFERRED}), arrival(1, "b")) is Verdict.DEFERRED
    assert one(Scene(partition="0", held={"k": HeldKind.FAILED}, deferring=True), arrival(1, "b")) is Verdict.FOLLOWER


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_observed_counts_exactly_the_messages_that_exactly_once_refuses(names: list[str]) -> None:
    """In the mode `observed` every message takes effect, and the account shows those that would not have."""
    exact = Judge(Scene(partition="0"), IdMemory({}))
    observed = Judge(Scene(partition="0", mode_of=lambda _: Mode.OBSERVED), IdMemory({}))
    for position, name in enumerate(names):
        for judge in (exact, observed):
            message = arrival(position, name)
            verdict = judge.verdict(message)
            if verdict in (Verdict.APPLY, Verdict.APPLY_AGAIN):
                judge.applied(message, again=verdict is Verdict.APPLY_AGAIN)
            else:
                judge.settle(message, verdict)
    assert observed.account.applied == len(names)
    assert observed.account.applied_again == exact.account.repeated


def test_at_least_once_neither_asks_nor_fills_the_memory() -> None:
    """A message with a known id is applied, and no id is learnt."""
    memory = IdMemory({id_hash("a"): b"1" * 8})
    judge = Judge(Scene(partition="0", mode_of=lambda _: Mode.AT_LEAST_ONCE), memory)
    for position, name in enumerate("ab"):
        assert judge.verdict(arrival(position, name)) is Verdict.APPLY
        judge.applied(arrival(position, name))
    assert memory.new == {}


def test_a_share_of_the_keys_has_another_mode() -> None:
    """The mode is that of the message's key."""
    modes = {"x": Mode.EXACTLY_ONCE, "y": Mode.OBSERVED}
    scene = Scene(partition="0", mode_of=modes.__getitem__)
    known = {id_hash("a"): b"1" * 8}
    assert one(scene, arrival(0, "a", "x"), known) is Verdict.REPEATED
    assert one(scene, arrival(0, "a", "y"), known) is Verdict.APPLY_AGAIN


def test_an_unreadable_message_holds_up_no_key() -> None:
    """The messages after it go on, even those of its key."""
    judge = Judge(Scene(partition="0"), NoMemory())
    bad = arrival(0, "a")
    bad.fault = "not JSON"
    judge.settle(bad, judge.verdict(bad))
    assert judge.verdict(arrival(1, "b")) is Verdict.APPLY
