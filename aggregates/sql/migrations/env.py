"""Script that Alembic runs to upgrade a store, on the caller's connection and in the caller's transaction."""

from alembic import context

from amends.aggregates.sql.migrations import VERSION_TABLE
from amends.aggregates.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
