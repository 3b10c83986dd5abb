"""JSON lines files as sources and sinks.

`source` reads files that grow, that are rotated, or that are compressed, on top of `walker`, which moves through the
lines of a file and of those that followed it. `rotation` finds them. `sink` appends the messages of a relay, and
`envelope` is the form of such a line.

All of it blocks in threads. A file that cannot be read or written at present raises `SourceUnreachableError` or
`SinkUnreachableError`; a file that is missing, or that permissions protect, raises `SourceSetupError` or
`SinkSetupError`.
"""
