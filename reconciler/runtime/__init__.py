"""The parts of the reconciler that do I/O: run a rule (`check.py`), then record and correct (`reconciler.py`).

This folder may import `drift`, `schedules` and `maintenance_windows`, and the layers below the reconciler; neither
SQLAlchemy nor Temporal. Start with `reconciler.py`: its first paragraph explains how a correction takes effect once.
"""
