"""Check for damage outside streams: in the database itself, and in plans."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, exc, select, text

from amends.aggregates.audit import RESTORE_PLAN, Finding, FindingKind
from amends.aggregates.run.plan import Plan
from amends.aggregates.sql.engine import safe_url
from amends.aggregates.sql.errors import as_amends_error, store_errors
from amends.aggregates.sql.schema import bindable, plans
from amends.aggregates.values.checksum import plan_fits
from amends.aggregates.values.strict_json import clean_text

__all__ = ["damaged_plans", "database_damage"]

_A_PAGE = 100


def database_damage(engine: Engine) -> Iterator[Finding]:
    """Yield the damage that the database itself reports; only SQLite reports any.

    Raises:
        UnreachableError: The store is unreadable at the moment.
    """
    if engine.dialect.name != "sqlite":
        return
    try:
        with engine.connect() as connection:
            said = connection.execute(text("PRAGMA integrity_check(20)")).scalars().all()
    except exc.DatabaseError as error:
        if isinstance(error, exc.OperationalError):
            raise as_amends_error(error) from error
        said = [str(as_amends_error(error))]
    for line in said:
        if line != "ok":
            yield Finding(FindingKind.DATABASE, safe_url(engine), None, line, "restore the file from a backup")


def damaged_plans(engine: Engine) -> Iterator[Finding]:
    """Check every plan.

    Raises:
        UnreachableError: The store is unreadable at the moment.
    """
    after = ""
    while True:
        with store_errors(), engine.connect() as connection:
            page = connection.execute(
                select(plans).where(plans.c.fingerprint > bindable(after)).order_by(plans.c.fingerprint).limit(_A_PAGE)
            ).all()
        if not page:
            return
        for row in page:
            if (found := _wrong_with_plan(row)) is not None:
                kind, problem, remedy = found
                yield Finding(kind, f"plan {clean_text(row.fingerprint)}", None, problem, remedy)
        after = page[-1].fingerprint


def _wrong_with_plan(row: Any) -> tuple[FindingKind, str, str] | None:  # noqa: ANN401 - a row
    if not plan_fits(row.fingerprint, row.saga, row.plan, row.recorded_at_ms, row.checksum):
        return FindingKind.CHANGED, "the plan was changed: its checksum does not match", RESTORE_PLAN
    try:
        found = Plan.model_validate_json(row.plan).fingerprint
    except ValidationError as error:
        problem = f"cannot be read: {error.error_count()} fields are not valid"
        return FindingKind.DAMAGED, problem, "upgrade this program or restore the plan"
    if found == row.fingerprint:
        return None
    return FindingKind.DAMAGED, f"its content has fingerprint {found}", RESTORE_PLAN
