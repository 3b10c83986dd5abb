"""The command `db`: the schema of the store, its integrity, and its read model.

Start reading in `db`.
"""
