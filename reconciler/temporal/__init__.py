"""Scheduled reconciliation on Temporal: the copy of the schedules, and the workflow that runs the rules.

In the reconciler, only this folder and `rules/temporal.py` import the SDK of Temporal. The folder may import every
other folder of the reconciler, except the module `testing`. Start with `scheduled_run.py`.
"""
