"""A user's project: its settings, its modules and its store's URL, read and checked.

The folder may import `cli.durations`, `cli.exit_codes` and the packages below the command line. It connects to nothing
and imports neither a database nor Temporal, so every command can afford it. Start reading in `settings`.
"""
