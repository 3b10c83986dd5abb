"""Pipelines: messages from outside, which start runs or change aggregates, with a guarantee that is measured.

A pipeline reads messages from a source, in partitions. Its position in the source, its memory of message ids and the
change of the store are one commit. The outbox is the way back: a transaction sends messages in its commit, and relays
publish them.

The layer may import `sagas`, `compensations` and `aggregates`. Inside, imports run downwards only, in this order:
`temporal` and `testing`; `runtime`; `kafka`, `nats`, `files` and `sql`, the adapters of sources and relays; `control`,
the facts and decisions of operators; `intake`, the decisions about one message; `definition`;
`source` and `sink`, the ports.

Start with `definition.pipeline` and `definition.relays`, which users write, then `source`, `sink` and `intake`.
"""
