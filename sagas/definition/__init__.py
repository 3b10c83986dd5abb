"""The definition API: sagas, steps, their compensations and probes, and the registry that holds them.

This folder owns the declarations that authors of sagas write. It checks them while modules are loaded, and compiles a
saga into a plan. It runs nothing and does no I/O. It may import `amends.compensations` and `amends.aggregates`, and
nothing else of `amends.sagas`. Start reading with `decorators.py`, then `steps.py` and `saga.py`.
"""
