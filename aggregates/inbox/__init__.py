"""The Inbox, which makes a participant idempotent in the participant's own database.

It may import `run`, `values`, `errors`, `damage` and `text`. It may not import sagas, Temporal or the journal. Only
`inbox.sql` imports SQLAlchemy and does I/O.

Start with the table in `rules`: it lists the states of a key and the answer to each call. `inbox.sql` has `Inbox`, the
class that a service uses.
"""
