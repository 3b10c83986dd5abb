"""Any sequence of calls of an Inbox agrees with a simple model."""

from typing import cast

from aggregate_parts import inbox_fixtures
from aggregate_parts.inbox_service import DAY, Service
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from property_parts import try_out
from sqlalchemy import delete

from amends import KeyConflictError, Rejected

url, service = inbox_fixtures.url, inbox_fixtures.service


class InboxMachine(RuleBasedStateMachine):
    """Compares any sequence of calls, undos, probes, waits and purges with a dictionary."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        with service.engine.begin() as connection:
            connection.execute(delete(service.effects))
            connection.execute(delete(service.inbox.table))
        # By key: outcome, content, time of its last change.
        self.model: dict[str, tuple[str, object, float]] = {}
        self.effects: list[str] = []

    keys = st.sampled_from(["a", "b", "c"])
    undo_keys = st.sampled_from(["u", "v"])
    errors = st.sampled_from([None, None, Rejected("no"), OSError("disk")])

    @rule(key=keys, content=st.sampled_from([1, 2]), error=errors)
    def do(self, key: str, content: int, error: Exception | None) -> None:
        """Call the operation."""
        known = self.model.get(key)
        try:
            answer = self.service.do(key, content, raises=error)
        except KeyConflictError:
            assert known is not None
            assert known[1] not in (None, content)
            return
        except OSError:
            assert known is None
            return
        if known is None:
            self.model[key] = ("refused" if error else "done", content, self.service.now_s)
            self.effects += [] if error else [key]
        assert answer.outcome == self.model[key][0]
        assert answer.repeated is (known is not None)

    @rule(key=undo_keys, of=keys, error=errors)
    def undo(self, key: str, of: str, error: Exception | None) -> None:
        """Undo one operation."""
        known, target = self.model.get(key), self.model.get(of)
        works = known is None and target is not None and target[0] == "done"
        # After a purge a key may stand for several effects; undoing one of them is outside of this model.
        if works and self.effects.count(of) != 1:
            return
        try:
            answer = self.service.undo(key, of, raises=error)
        except KeyConflictError:
            assert known is not None
            assert known[1] != of
            return
        except OSError:
            assert works
            return
        now = self.service.now_s
        if known is None:
            self.model[key] = ("refused" if works and error else "done", of, now)
            if target is None:
                self.model[of] = ("cancelled", None, now)
            elif works and not error:
                self.model[of] = ("cancelled", target[1], now)
                self.effects.remove(of)
        assert answer.outcome == self.model[key][0]
        assert answer.repeated is (known is not None)

    @rule(key=keys)
    def settle(self, key: str) -> None:
        """Settle a key for good."""
        known = self.model.setdefault(key, ("cancelled", None, self.service.now_s))
        assert self.service.settle(key).outcome == known[0]

    @rule(hours=st.sampled_from([1, 25]))
    def wait(self, hours: int) -> None:
        """Let time pass."""
        self.service.now_s += hours * 3600

    @rule()
    def purge(self) -> None:
        """Purge old keys."""
        self.service.purge()
        oldest = self.service.now_s - DAY.total_seconds()
        self.model = {key: known for key, known in self.model.items() if known[2] >= oldest}

    @invariant()
    def agrees(self) -> None:
        """Check that the existing effects, and the finding under every key, are the model's."""
        assert self.service.standing() == sorted(self.effects)
        for key in ("a", "b", "c", "u", "v"):
            found, known = self.service.find(key), self.model.get(key)
            assert (found and found.outcome) == (known and known[0])


def test_any_sequence_of_calls_agrees_with_a_model(service: Service) -> None:
    """Calls, refusals, failures, undos, probes, waits and purges in any order have the results of a dictionary."""
    few = settings(max_examples=try_out(8), stateful_step_count=20, deadline=None)
    run_state_machine_as_test(cast("type[InboxMachine]", lambda: InboxMachine(service)), settings=few)
