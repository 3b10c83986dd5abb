"""Revisions of the schema, one file each; a released one must not change.

A revision may import Alembic and SQLAlchemy, and nothing of Amends, so that later changes of Amends cannot change it.
Start reading in `v0001_store`.
"""
