"""Schedules of reconciliation: their facts, the decisions about them, and the entries for Temporal. Pure.

This folder may import `maintenance_windows` and the layers below the reconciler; not `drift`, and no SDK. Start with
`facts.py`, then `decide.py`; `alignment.py` compares the facts with the copy that Temporal holds.
"""
