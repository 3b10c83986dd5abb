"""The engine: decide what a run does next, and write the result as facts.

This folder owns every decision about a run: the next call, the meaning of an answer, interventions of operators,
overdue nodes, and runs that the loaded code cannot continue. It has no clock, no environment, no thread and no driver;
the caller passes the time and the transaction of the journal. It may import `amends.sagas.definition`,
`amends.compensations` and `amends.aggregates`. Start reading with `decide.py`, then `protocol.py`.
"""
