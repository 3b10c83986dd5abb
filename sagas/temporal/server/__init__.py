"""The embedded Temporal server: a real Temporal in a child process, shared by all users of one data directory.

This folder owns the process, its ports, its record in the data directory and the locks around them. It imports nothing
of `amends` but `amends.aggregates`, and not `temporalio`. Start reading with `embedded_server.py`.
"""
