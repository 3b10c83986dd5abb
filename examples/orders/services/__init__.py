"""The other companies of this example: a payment provider and a carrier, each a process of its own behind HTTP.

They know nothing of sagas. They offer the three things that a saga needs of a participant: an idempotency key on every
call, an answer to a question about a key, and an undo that may arrive before the call that it undoes.

`line_log` keeps lines on disk, `ledger` applies each key once with `amends.Inbox`, `values` checks the
bodies of requests, `faults` holds the switches that make things go wrong on purpose, `service` puts them behind HTTP,
`process` starts all of it as a child process. `payment` and `shipping` are the two businesses. The transfer example's
bank uses the same package; copy this folder along with that example.
"""
