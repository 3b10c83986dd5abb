"""Revisions of the schema, one file each; a released one must not change."""
