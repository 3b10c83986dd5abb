"""Run a rule: every execution returns a scan, and a rule that fails *could not scan*.

Nothing here can write: this module and the rules receive only a `JournalReader`.
"""

import asyncio
import inspect
import threading
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.aggregates.errors import DamagedRunError, JournalError
from amends.aggregates.journal import JournalReader
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.error_report import NO_REASON, is_a, line_of, reason_of, traceback_of
from amends.reconciler.drift.decide import ScanResult, Verdict, live_claim
from amends.reconciler.drift.drift import Drift, DriftKind, ScanFailed, corrected_run
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import MOST_DRIFTS, Found, Rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.maintenance_windows import Maintenance
from amends.sagas.runtime.effects import raised_by_signal

__all__ = ["in_flight", "rule_state_of", "scan", "scan_all"]

# How long a rule may take to end after its cancellation.
_LEAVE_S = 1.0

_NAMED = 100
"""The number of damaged streams that a scan names."""


async def rule_state_of(journal: JournalReader, rule: str) -> RuleState:
    """Read the state of a rule's drift.

    Raises:
        UnreachableError: The store cannot be reached.
    """
    found = await asyncio.to_thread(journal.load_blocking, Reconciliation, rule)
    return RuleState() if found is None else found.rule_state


async def scan(
    rule: Rule,
    journal: JournalReader,
    rule_state: RuleState,
    now_ms: int,
    *,
    driven: Mapping[str, str] | None = None,
    on_error: Callable[[BaseException], None] | None = None,
) -> ScanResult:
    """Run a rule and return its scan.

    A rule could not scan when it raises, when it yields `ScanFailed`, or when it returns something other than drift.
    The drift that it found before that does not count either: otherwise all drift that it had not reached yet would be
    cleared. A run that cannot be read is a drift of its own, in addition to the drift that the rule finds in other
    runs.

    Args:
        rule: The rule.
        journal: The journal to read.
        rule_state: The state of the rule's drift.
        now_ms: Time of the scan, in milliseconds since the epoch.
        driven: Runs that a driver works on, with the reason not to touch them; `None` when no driver can be asked, and
            then no open run is touched.
        on_error: Called with an error that the rule raises; `None` to ignore the error.
    """
    known = tuple(sorted({each.found.subject for each in rule_state.drifts.values()}))
    observation = Observation(journal, now_ms, known, rule_state.log_position, rule_state.sweep)
    try:
        found = await _in_time(rule, observation)
        runs = {run_id for each in found if (run_id := corrected_run(each.correction)) is not None}
        touched = await asyncio.to_thread(in_flight, journal, runs, now_ms, driven)
        found += _damage(observation, found)
        held = await asyncio.to_thread(_hands_off, journal, rule.name, now_ms)
    except ScanFailed as answer:
        return ScanResult(unobservable=one_line(answer.reason) or "the rule gave no reason")
    except _RaisedError as raised:
        if on_error is not None:
            on_error(raised.error)
        return ScanResult(unobservable=line_of(raised.error) + _place(rule, raised.error))
    except Exception as error:  # noqa: BLE001 - a journal that cannot be read means the same
        return ScanResult(unobservable=line_of(error))
    return ScanResult(
        drifts=found,
        count=observation.count,
        log_position=observation.log_position,
        sweep=observation.sweep,
        in_flight=touched,
        maintenance=held,
    )


def _hands_off(journal: JournalReader, rule: str, now_ms: int) -> str | None:
    """Return why nothing may be corrected now; `None` when corrections are allowed."""
    try:
        maintenance = journal.load_blocking(Maintenance, Maintenance.ID)
    except JournalError as error:
        return f"the maintenance windows cannot be read: {error}"
    return None if maintenance is None else maintenance.windows.closed_for(rule, now_ms)


def _damage(observation: Observation, found: tuple[Drift, ...]) -> tuple[Drift, ...]:
    """Return a drift for each damaged stream that the rule met, and one for the rest when there are too many."""
    room = min(_NAMED, MOST_DRIFTS - len(found) - 1)
    damaged = [observation.damaged[stream] for stream in sorted(observation.damaged)]
    drifts = [
        Drift(
            subject=(damage.run_id or damage.stream)[:300],
            kind=DriftKind.DIFFERENT,
            expected="facts that can be read",
            actual={"stream": damage.stream, "position": damage.position, "problem": damage.problem},
            evidence=str(damage),
        )
        for damage in damaged[: max(0, room)]
    ]
    if len(damaged) > len(drifts) and len(found) + len(drifts) < MOST_DRIFTS:
        drifts.append(
            Drift(
                subject="other damaged streams",
                kind=DriftKind.DIFFERENT,
                expected="facts that can be read",
                evidence=f"{len(damaged) - len(drifts)} more cannot be read; all of them: amends db check",
            )
        )
    return tuple(drifts)


def _place(rule: Rule, error: BaseException) -> str:
    """Return the place in the rule's own module where the error was raised; empty when it is unknown."""
    code = getattr(rule.function, "__code__", None)
    frames = [each for each in traceback.extract_tb(traceback_of(error)) if code and each.filename == code.co_filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of a rule, as data, so that an error of the rule is never confused with an error of the caller.

    Attributes:
        found: Drift that the rule found.
        error: The error that the rule raised, of any class; `None` when it returned.
    """

    found: tuple[Drift, ...] = ()
    error: BaseException | None = None


class _RaisedError(Exception):
    """A rule raised an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def _in_time(rule: Rule, observation: Observation) -> tuple[Drift, ...]:
    """Run a rule within its timeout; leave it behind when it ignores its cancellation, as a thread does."""
    answer = asyncio.ensure_future(_found(rule, observation))
    try:
        await asyncio.wait({answer}, timeout=rule.policy.timeout_ms / 1000)
        if not answer.done():
            raise ScanFailed(f"the rule has not answered within {rule.policy.timeout_ms / 1000:g} s")
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.wait({answer}, timeout=_LEAVE_S)
    ended = answer.result()
    if ended.error is None:
        return ended.found
    if is_a(ended.error, ScanFailed):
        reason = reason_of(ended.error)
        raise ScanFailed("" if reason == NO_REASON else reason)
    raise _RaisedError(ended.error)


async def _found(rule: Rule, observation: Observation) -> _Ended:
    function: Any = rule.function
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        return await _beside(lambda: _checked(function(observation)))
    try:
        return _Ended(await _listed(function(observation)))
    except BaseException as error:
        if raised_by_signal(error):
            raise
        return _Ended(error=error)


async def _beside(function: Callable[[], tuple[Drift, ...]]) -> _Ended:
    """Run a function in a daemon thread, without a time limit: a rule that never returns must not keep the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Ended] = loop.create_future()

    def give(ended: _Ended) -> None:
        if not answer.done():  # the caller may have stopped waiting
            answer.set_result(ended)

    def run() -> None:
        try:
            ended = _Ended(function())
        except BaseException as error:  # noqa: BLE001 - the caller receives it as data
            ended = _Ended(error=error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(give, ended)

    threading.Thread(target=run, name="drift rule", daemon=True).start()
    return await answer


async def _listed(answer: AsyncIterable[Found] | Awaitable[Iterable[Found]]) -> tuple[Drift, ...]:
    if isinstance(answer, AsyncIterable):
        return _checked([each async for each in answer])
    return _checked(await answer)


def _checked(answer: Any) -> tuple[Drift, ...]:  # noqa: ANN401 - a rule can return anything
    if answer is None:
        raise ScanFailed("the rule returned nothing at all; it must yield drift, or return a list, which may be empty")
    if isinstance(answer, Drift):
        raise ScanFailed("the rule returned a Drift itself; it must yield drift, or return a list")
    found: list[Drift] = []
    for each in answer:
        if isinstance(each, ScanFailed):
            raise each
        if not isinstance(each, Drift):
            raise ScanFailed(f"the rule yielded {shorten(each)}, which is not a Drift")
        if len(found) == MOST_DRIFTS:
            raise ScanFailed(f"the rule found more than {MOST_DRIFTS:,} differences; check the rule itself first")
        found.append(each)
    return tuple(found)


async def scan_all(scan_once: Callable[[], Awaitable[Verdict]], sweep: str) -> AsyncIterator[Verdict]:
    """Repeat scans until a rule that sweeps in parts has scanned everything.

    A rule that scans everything each time scans once. Each scan is complete: it sees the drift that earlier scans
    found, and `scan_once` may record it. A process that is killed between two scans continues after the last one.

    Args:
        scan_once: Scans once and returns the verdict.
        sweep: The position of the sweep before.

    Yields:
        The verdict of each scan; the last one covers all open drift.
    """
    # A sweep that starts in the middle skips the parts before it, so it has to reach its end twice.
    ends = 2 if sweep else 1
    while ends:
        verdict = await scan_once()
        stands = verdict.rule_state.sweep
        ends -= not stands
        # A sweep that stays at the same position would never end.
        if verdict.rule_state.unobservable is not None or (stands and stands == sweep):
            ends = 0
        sweep = stands
        yield verdict


def in_flight(
    journal: JournalReader, runs: Iterable[str], now_ms: int, driven: Mapping[str, str] | None
) -> Mapping[str, str]:
    """Return the runs that must not be touched, each with the reason."""
    touched: dict[str, str] = {}
    for run_id in runs:
        try:
            record = journal.record_blocking(run_id)
        except DamagedRunError as error:
            touched[run_id] = str(error)
            continue
        if record is None:
            touched[run_id] = "there is no such run"
        elif (claim := live_claim(record, now_ms)) is not None:
            touched[run_id] = f"in flight: {claim}"
        elif driven is not None and run_id in driven:
            touched[run_id] = f"in flight: {driven[run_id]}"
        elif driven is None and not record.state.closed:
            touched[run_id] = "it is unknown whether its workflow runs"
    return touched
