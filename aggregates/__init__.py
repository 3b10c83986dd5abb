"""Event-sourced aggregates, the journal of saga runs, and the store that keeps both.

This is the lowest package: it imports nothing from the rest of Amends. Inside, imports run downwards only, in this
order: `sql`; `journal`, `audit` and `unit_of_work`; `inbox` and `events`; `run`; `values`; `errors`; `damage`,
`store_url` and `text`. Only `sql` and `inbox.sql` may import SQLAlchemy or do I/O; everything else is pure.

Start with `journal`, the ports that the layers above use. Then read `run.facts` and `run.transitions` for the life of a
run, and `events.aggregate` for the aggregates of users.
"""
