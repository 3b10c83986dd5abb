"""NATS JetStream as a source and as a sink. Needs `amends[nats]`.

`link` connects, and turns the errors of the client into those of the ports. `source` reads a stream by consumers of its
own from our position, through `consumer`, which notices every gap. `sink` publishes, and waits for the
acknowledgements.

A server that does not answer raises `SourceUnreachableError` or `SinkUnreachableError`, and the next call connects
again. A missing stream or refused credentials raise `SourceSetupError` or `SinkSetupError`.
"""
