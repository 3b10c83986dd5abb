"""One saga run as data: its plan, its facts, and the state that is folded from them. Pure.

It may import `values`, `errors`, `damage` and `text`, and neither SQLAlchemy nor the SDK of Temporal: workflows of
Temporal import it too.

Start with `facts`, then `transitions`, which holds the theory of operation and the tables of permitted transitions.
`state` has the statuses, `record` adds the user data, and `plan` describes the shape of a saga.
"""
