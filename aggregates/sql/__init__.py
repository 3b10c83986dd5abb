"""The store on SQLite or PostgreSQL: the adapter of `journal`, with its schema, checks and repairs.

It is the top layer of `aggregates`: it may import everything below it, and SQLAlchemy. Every module does I/O. The
module `errors` turns failures of the database into errors of `amends.aggregates.errors`.

Start with `journal` (`open_journal`, `SqlJournal`). Writing goes from `committer` to `batch` and `transaction`; reading
goes through `loading`. `rows` and `run_index` hold the statements, `engine` the connections, and `check` finds damage.
"""
