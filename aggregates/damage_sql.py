"""Looking for damage that is not a stream's: of the database itself, and of plans."""

from collections.abc import Iterator

from pydantic import ValidationError
from sqlalchemy import Engine, exc, select, text

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.engine_sql import safe_url
from amends.aggregates.failures_sql import as_amends_error, store_errors
from amends.aggregates.plan import Plan
from amends.aggregates.schema_sql import plans

__all__ = ["damaged_plans", "database_damage"]

_PLANS_A_PAGE = 100


def database_damage(engine: Engine) -> Iterator[Finding]:
    """Ask the database what it knows of its own damage; only SQLite knows any.

    Raises:
        UnreachableError: The store cannot be read.
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
            yield Finding(FindingKind.DATABASE, safe_url(engine), None, f"{line}; restore the file from a backup")


def damaged_plans(engine: Engine) -> Iterator[Finding]:
    """Look at every plan.

    Raises:
        UnreachableError: The store cannot be read.
    """
    after = ""
    while True:
        with store_errors(), engine.connect() as connection:
            page = connection.execute(
                select(plans.c.fingerprint, plans.c.plan)
                .where(plans.c.fingerprint > after)
                .order_by(plans.c.fingerprint)
                .limit(_PLANS_A_PAGE)
            ).all()
        if not page:
            return
        for fingerprint, plan in page:
            if (wrong := _wrong_with_plan(fingerprint, plan)) is not None:
                yield Finding(FindingKind.DAMAGED, f"plan {fingerprint}", None, wrong)
        after = page[-1].fingerprint


def _wrong_with_plan(fingerprint: str, plan: str) -> str | None:
    try:
        found = Plan.model_validate_json(plan).fingerprint
    except ValidationError as error:
        return f"cannot be read, {error.error_count()} fields do not fit; upgrade this program or restore the plan"
    return None if found == fingerprint else f"its content has fingerprint {found}; restore the plan"
