"""What Alembic runs to upgrade a store: it works on the connection, and in the transaction, that it is given."""

from alembic import context

from amends.aggregates.sql.migrations import VERSION_TABLE
from amends.aggregates.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
