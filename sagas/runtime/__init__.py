"""The runtime: advance runs in this process, without Temporal.

This folder owns the in-process runner, and the parts that every driver needs to call functions: seats, threads,
deadlines, the watch over the event loop, the log of errors, and the files that `amends doctor` reads. It may import
`amends.sagas.engine`, `amends.sagas.definition`, `amends.compensations` and `amends.aggregates`, and never
`temporalio`. Start reading with `runner.py`, then `run_drive.py` and `effects.py`.
"""
