"""Revisions of the schema, one file each; released ones are never changed."""
