"""The built-in drift rules, one module for each source that they read.

`runs.py` reads the runs that are open, `sql.py` reads the store, `temporal.py` asks Temporal. This folder may import
`drift`, `schedules` and `maintenance_windows`, and the layers below the reconciler; of the modules, only `sql.py`
imports SQLAlchemy and only `temporal.py` imports the SDK of Temporal. Start with `runs.py`.
"""
