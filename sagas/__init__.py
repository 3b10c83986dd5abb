"""Sagas: define them, decide what a run does next, and advance runs to their end.

This folder owns everything about runs, except the form in which the journal stores them (`amends.aggregates.run`).
Each folder may import the ones below it in this list:

- `temporal` advances runs with Temporal: client, workflow, activities, worker, and the embedded server. `testing` tests
  sagas without a server. `prove` explores every way in which a saga can fail. These three do not import each other.
- `runtime` advances runs in this process: event loop, threads, timers and leases.
- `engine` decides and writes facts. It is pure: the caller passes the time and the transaction.
- `definition` holds `Saga`, the decorators of steps, and the registry of all of them.

Outside this folder, `sagas` may import `compensations` and `aggregates`. Start reading with `definition/steps.py`, then
`engine/decide.py` and `engine/protocol.py`; every driver is a loop around these two.
"""
