"""The command `db`: the schema of the store, its integrity, and its read model.

It may import every part of `amends.cli` but `app`, and SQLAlchemy. Start reading in `db`.
"""
