"""The user's own tables in the search: an SQLite database in memory that is forked per world.

It may import SQLAlchemy and `amends.sagas.prove`. It reads and writes nothing outside of the process. Start reading
with `tables.py`.
"""
