"""Drift: its values, its rules, its facts, and every decision about it.

The folder is pure: an `Observation` reads the journal only through the port that it receives. This folder may import
`maintenance_windows` and the layers below the reconciler; not `schedules`, and no SDK. Start with `decide.py`, which
lists the guards that hold a correction back; `rule.py` and `observation.py` are for authors of rules.
"""
