"""Audit a pipeline: the account of its commits, and its effects against the source's own list of ids. Pure.

The account shows that every position of a range was dealt with once: the ranges of an epoch touch without gaps, every
commit's counts add up to its messages, and the sums equal the messages that are held now. The comparison with the
source shows that the counts are true.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from amends.aggregates.intake import BatchRow, Counts, Position

__all__ = ["AccountAudit", "Comparison", "PartitionAudit", "arrived", "compare_ids"]

_SHOWN = 20
_NEVER_NEGATIVE = ("applied", "redelivered", "repeated", "replayed", "applied_again", "skipped", "gaps")


def arrived(counts: Counts) -> int:
    """Return the number of messages in a batch's range, or 0 for a commit that changes only the fate of held ones."""
    return counts.applied + counts.repeated + counts.replayed + counts.set_aside + counts.deferred + counts.skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionAudit:
    """The result of an audit of one partition.

    Attributes:
        arrived: Number of messages that arrived.
        counts: The sums of all commits.
        batches: Number of commits.
        exactly_once_since: Position since which every commit of the present epoch was exactly once; `None` if the last
            one was not, or if there is none.
        findings: The faults, in one line each; empty if the account is right.
    """

    arrived: int
    counts: Counts
    batches: int
    exactly_once_since: int | None
    findings: tuple[str, ...]


@dataclass(slots=True)
class AccountAudit:
    """Audits the commits of one partition, in order of their numbers.

    Attributes:
        partition: The partition, for the findings.
        first: Number of the first commit that it is fed. For a part in the middle, it is that of the last commit of the
            part before, so that the parts touch; such an audit has findings, but no end.
    """

    partition: str
    first: int = 1
    _sums: Counter[str] = field(default_factory=Counter)
    _last: BatchRow | None = None
    _batches: int = 0
    _arrived: int = 0
    _since: int | None = None
    _findings: list[str] = field(default_factory=list)
    _more: int = 0

    def feed(self, rows: Iterable[BatchRow]) -> None:
        """Check further commits."""
        for row in rows:
            self._check(row)
            for each in fields(Counts):
                self._sums[each.name] += getattr(row.counts, each.name)
            self._batches += 1
            self._arrived += row.next - row.first - row.holes
            if row.next > row.first:
                exact = row.mode == "exactly-once"
                former = self._since if self._last is not None and self._last.epoch == row.epoch else None
                self._since = None if not exact else row.first if former is None else former
            self._last = row

    def _check(self, row: BatchRow) -> None:
        last, name = self._last, f"partition {self.partition!r} commit {row.number}"
        expected = self.first if last is None else last.number + 1
        if row.number != expected:
            self._find(f"{name}: expected number {expected}; commits are missing or doubled")
        if last is not None and row.epoch < last.epoch:
            self._find(f"{name}: its epoch is {row.epoch}, after {last.epoch}")
        if last is not None and row.epoch == last.epoch and row.first != last.next:
            self._find(f"{name}: it begins at position {row.first}, but the one before ended at {last.next}")
        if row.next < row.first or row.holes < 0:
            self._find(f"{name}: its range from {row.first} to {row.next} with {row.holes} holes is impossible")
        messages, counted = row.next - row.first - row.holes, arrived(row.counts)
        if messages != counted:
            self._find(f"{name}: {messages} messages arrived, but its counts add up to {counted}")
        if any(getattr(row.counts, each) < 0 for each in _NEVER_NEGATIVE):
            self._find(f"{name}: a count is negative")

    @property
    def findings(self) -> tuple[str, ...]:
        """The faults so far, in one line each."""
        more = (f"partition {self.partition!r}: {self._more} more findings",) if self._more else ()
        return (*self._findings, *more)

    def end(self, position: Position | None, *, set_aside: int, deferred: int) -> PartitionAudit:
        """Compare the account with the position and the held messages, and return the result.

        Args:
            position: The position of the partition; `None` if it has none.
            set_aside: Number of messages of the partition that are held now, without deferred ones.
            deferred: Number of its messages that are deferred now.
        """
        name, last = f"partition {self.partition!r}", self._last
        if position is not None:
            if position.batch != self._batches:
                self._find(f"{name}: {self._batches} commits are recorded, but the position counts {position.batch}")
            if last is not None and last.epoch == position.epoch and last.next != position.next:
                self._find(f"{name}: the last commit ended at {last.next}, but the position is {position.next}")
        elif self._batches:
            self._find(f"{name}: it has commits but no position")
        for word, held in (("set_aside", set_aside), ("deferred", deferred)):
            if self._sums[word] != held:
                self._find(f"{name}: {self._sums[word]} messages are {word} by the account, but {held} are held")
        return PartitionAudit(
            arrived=self._arrived,
            counts=Counts(**self._sums),
            batches=self._batches,
            exactly_once_since=self._since,
            findings=self.findings,
        )

    def _find(self, text: str) -> None:
        if len(self._findings) < _SHOWN:
            self._findings.append(text)
        else:
            self._more += 1


class Comparison(NamedTuple):
    """The effects of messages against the source's own list of their ids.

    Attributes:
        messages: Number of messages in the source.
        distinct: Number of different ids among them.
        missing: Ids without an effect that have no excuse, in order of the source.
        doubled: Ids with more than one effect, in order of the effects.
        unknown: Ids with an effect that the source does not have, in order of the effects.
    """

    messages: int
    distinct: int
    missing: Sequence[str]
    doubled: Sequence[str]
    unknown: Sequence[str]

    @property
    def exact(self) -> bool:
        """Whether every id has one effect, or an excuse."""
        return not (self.missing or self.doubled or self.unknown)


def compare_ids(source: Iterable[str], effects: Iterable[str], *, excused: Collection[str] = ()) -> Comparison:
    """Compare the ids of a source with the ids of the effects in the store.

    Args:
        source: The id of every message of the source, in order; an id that its producer sent twice comes twice.
        effects: The id of the message of every effect.
        excused: Ids that need no effect: messages that are held, skipped, or have not been read.
    """
    sent, done = Counter(source), Counter(effects)
    return Comparison(
        messages=sent.total(),
        distinct=len(sent),
        missing=[each for each in sent if each not in done and each not in excused],
        doubled=[each for each, count in done.items() if count > 1],
        unknown=[each for each in done if each not in sent],
    )
