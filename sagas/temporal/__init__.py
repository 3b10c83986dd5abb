"""Temporal as the driver of runs: workflow, activities, worker, client, and recovery from the journal.

This folder owns everything of sagas that imports `temporalio`, and the Temporal server that Amends starts for local
work. The journal stays the truth about every run: `recovery.py` reads it, and starts every workflow again
that Temporal has lost.

The folder may import `amends.sagas.runtime`, `amends.sagas.engine`, `amends.sagas.definition` and the layers below
`amends.sagas`. Start reading with `workflow.py`, then `activities.py` and `effect_calls.py`, which do the work, and
`worker.py`, which registers them.
"""
