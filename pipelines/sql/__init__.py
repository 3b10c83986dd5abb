"""The outbox of another Amends store as a source.

`outbox_source` reads it. A store that does not answer raises `SourceUnreachableError`; one that does not exist, or that
has the schema of another version, raises `SourceSetupError`.
"""
