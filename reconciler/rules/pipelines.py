"""Built-in rule over pipelines: the account of their commits is right.

A scan reads one part of the accounts, of bounded size, and the next one goes on after it. A partition with open drift
is audited whole in each scan, because a part cannot show that it is right again.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from pydantic import JsonValue

from amends.pipelines.intake.audit import AccountAudit
from amends.pipelines.intake.whole_account import audit_account
from amends.reconciler.drift.drift import Drift, DriftKind
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule, drift_rule

__all__ = ["SWEPT_COMMITS", "pipeline_rules"]

SWEPT_COMMITS = 5_000
"""The number of commits after which a scan leaves the rest to the next one."""

_EVERY = timedelta(minutes=5)
_PAGE = 1_000
_SEPARATOR = "\t"


def pipeline_rules(names: Sequence[str], *, most: int = SWEPT_COMMITS) -> tuple[Rule, ...]:
    """Create the rule about the accounts of pipelines and relays.

    Args:
        names: Their names; without one there is no rule.
        most: The number of commits of one scan.
    """
    if not names:
        return ()
    return (drift_rule("pipeline-account", every=_EVERY)(_account(sorted(names), most)),)


def _account(names: Sequence[str], most: int) -> Callable[[Observation], Iterator[Drift]]:
    def account(observation: Observation) -> Iterator[Drift]:
        """The commits of a pipeline touch, and their counts equal the messages that arrived and are held."""
        places = [(name, part) for name in names for part in sorted(observation.intake.positions(name))]
        wrong = {each for each in places if _subject(*each) in observation.known}
        wrong |= _sweep(observation, places, most)
        for place in sorted(wrong):
            observation.scanned(1)
            result = audit_account(observation.intake, *place)
            if result.findings:
                yield _drift(place, result.findings)

    return account


def _sweep(observation: Observation, places: Sequence[tuple[str, str]], most: int) -> set[tuple[str, str]]:
    """Read the next part of the accounts, and return the partitions that need a whole audit."""
    start, after = _place_of(observation.sweep)
    wrong: set[tuple[str, str]] = set()
    left = most
    for place in places:
        if start is not None and place < start:
            continue
        number = after if place == start else 0
        number, found = _read_part(observation, place, number, left)
        if found:
            wrong.add(place)
        left -= max(1, number - (after if place == start else 0))
        if left <= 0:
            observation.sweep = _SEPARATOR.join((*place, str(number)))
            return wrong
    observation.sweep = ""
    return wrong


def _read_part(observation: Observation, place: tuple[str, str], after: int, left: int) -> tuple[int, bool]:
    """Check the next commits of a partition; return the number of the last one, and whether there is a fault.

    The part begins with the last commit of the part before, so that a gap between the two shows.
    """
    first = max(1, after)
    audit, number = AccountAudit(place[1], first=first), first - 1
    while number < after + left:
        rows = observation.intake.batches(*place, after=number, limit=min(_PAGE, after + left - number))
        if not rows:
            # The end of the account, where its sums have to equal the position and the held messages.
            return number, bool(audit.findings) or _unbalanced(observation, place)
        audit.feed(rows)
        number = rows[-1].number
    return number, bool(audit.findings)


def _unbalanced(observation: Observation, place: tuple[str, str]) -> bool:
    """Check whether the sums of a partition may differ from the messages that it holds; the whole audit decides."""
    name, partition = place
    counts = observation.intake.totals(name).get(partition)
    held = len(observation.intake.held(name, partition=partition, limit=1_000_000))
    position = observation.intake.position(name, partition)
    if counts is None or position is None:
        return counts is not None or (position is not None and position.batch > 0)
    return counts.set_aside + counts.deferred != held


def _place_of(sweep: str) -> tuple[tuple[str, str] | None, int]:
    name, _, rest = sweep.partition(_SEPARATOR)
    partition, _, number = rest.rpartition(_SEPARATOR)
    return ((name, partition), int(number)) if number.isdecimal() else (None, 0)


def _subject(name: str, partition: str) -> str:
    text = f"pipeline/{name}/{partition}"
    return "".join(char if char.isprintable() else "?" for char in text)[:300]


def _drift(place: tuple[str, str], findings: Sequence[str]) -> Drift:
    shown: list[JsonValue] = list(findings[:5])
    return Drift(
        subject=_subject(*place),
        kind=DriftKind.DIFFERENT,
        expected="an account without findings",
        actual=shown,
        evidence=f"to read it whole: amends pipeline audit {place[0]}",
    )
