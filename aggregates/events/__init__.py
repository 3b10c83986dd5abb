"""Aggregates of users: their base class, their events as stored rows, and their snapshots. Pure.

It may import `run`, `values`, `errors`, `damage` and `text`; it does not import SQLAlchemy, `journal`, `inbox` or
`sql`.

Start with `aggregate`. `event_codec` turns events and facts into rows and back, `event_types` reads the types of their
fields from annotations, `fact_stream` turns a stream of facts into an aggregate, and `snapshot` saves the replay of
long streams.
"""
