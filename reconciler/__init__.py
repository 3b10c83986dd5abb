"""The reconciler: it compares the record with the world, and corrects the differences.

This folder owns drift rules, their decisions, the schedules that run them, and maintenance windows. It may import
`aggregates`, `compensations` and `sagas`; only the command line and `amends.testing` import it. Inside, imports run
downwards: `temporal` and `testing`, then `runtime` and `rules`, then `drift` and `schedules`, then
`maintenance_windows`.

Start with `drift/decide.py`, which decides about drift, and `runtime/reconciler.py`, which carries the decisions out.
"""
