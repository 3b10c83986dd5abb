"""Retry policies, and the time bounds of steps, as the authors of sagas write them."""

from dataclasses import dataclass
from datetime import timedelta

from amends.aggregates.errors import DefinitionError
from amends.aggregates.run.plan import RetryPolicy
from amends.sagas.definition.signatures import label

__all__ = [
    "EFFECT_RETRY",
    "EFFECT_TIMEOUT",
    "TRANSACTION_RETRY",
    "UNDO_RETRY",
    "Retry",
    "check_overdue",
    "check_retry",
    "check_timeout",
    "milliseconds",
]


@dataclass(frozen=True)
class Retry:
    """How often a call is attempted, and the delays between the attempts.

    After attempt n fails, the next is due `min(first * factor ** (n - 1), longest)` later. All attempts of an effect
    carry the same idempotency key. `Rejected` is never retried.

    Attributes:
        max_attempts: The total number of attempts, at least 1; `None` for no limit.
        first: Delay after the first attempt.
        factor: Growth of the delay, from 1 to 100.
        longest: Upper bound of one delay.

    Raises:
        DefinitionError: A value is out of its bounds.
    """

    max_attempts: int | None = 5
    first: timedelta = timedelta(milliseconds=200)
    factor: float = 2.0
    longest: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _check_attempts(self.max_attempts)
        _check_factor(self.factor)
        for name, delay in (("first", self.first), ("longest", self.longest)):
            if _as_duration(delay) < timedelta(0):
                raise DefinitionError(f"Retry({name}={_shown(delay)}): give a timedelta of 0 or more")

    @property
    def policy(self) -> RetryPolicy:
        """The policy as a plan stores it."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            first_ms=milliseconds(self.first),
            factor=self.factor,
            longest_ms=milliseconds(self.longest),
        )


def milliseconds(duration: timedelta) -> int:
    """Return a duration in whole milliseconds."""
    return duration // timedelta(milliseconds=1)


def _shown(duration: object) -> str:
    return str(duration) if isinstance(duration, timedelta) else repr(duration)


def _as_duration(value: object) -> timedelta:
    """Return `value` if it is a timedelta, else `timedelta.min`, which every caller rejects."""
    return value if isinstance(value, timedelta) else timedelta.min


def _check_attempts(attempts: object) -> None:
    if attempts is not None and (not isinstance(attempts, int) or attempts < 1):
        raise DefinitionError(f"Retry(max_attempts={attempts!r}): give a whole number from 1, or None for no limit")


def _check_factor(factor: object) -> None:
    if not isinstance(factor, int | float) or not 1 <= factor <= 100:  # noqa: PLR2004 - as documented
        raise DefinitionError(f"Retry(factor={factor!r}): give a factor from 1 to 100")


def check_retry(retry: object, where: str) -> None:
    """Refuse a number where a policy is needed.

    Raises:
        DefinitionError: The value is neither a `Retry` nor `None`.
    """
    if retry is not None and not isinstance(retry, Retry):
        raise DefinitionError(f"{where}: retry={label(retry)}; give Retry(max_attempts=...)")


def check_timeout(timeout: object, where: str) -> None:
    """Check the bound of one attempt.

    Raises:
        DefinitionError: The value is not a duration of at least 1 ms.
    """
    if _as_duration(timeout) < timedelta(milliseconds=1):
        raise DefinitionError(f"{where}: timeout={_shown(timeout)}; give a timedelta of 1 ms or more")


def check_overdue(overdue: object, where: str) -> None:
    """Check the time after which an open step counts as overdue.

    Raises:
        DefinitionError: The value is neither a duration of at least 1 ms nor `None`.
    """
    if overdue is not None and _as_duration(overdue) < timedelta(milliseconds=1):
        raise DefinitionError(f"{where}: overdue={_shown(overdue)}; give a timedelta of 1 ms or more")


TRANSACTION_RETRY = Retry(max_attempts=3, first=timedelta(milliseconds=100))
EFFECT_RETRY = Retry()
UNDO_RETRY = Retry(max_attempts=10, longest=timedelta(minutes=1))
EFFECT_TIMEOUT = timedelta(seconds=10)
