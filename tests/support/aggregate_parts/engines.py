"""A table of numbers, and engines for it."""

from sqlalchemy import Engine, text


def noted(engine: Engine) -> list[int]:
    """Read all rows as committed."""
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM noted ORDER BY id")).scalars())
