"""Pure rendering: facts, plans and states in; rows, sentences and JSON out.

The modules read nothing, wait for nothing and print nothing. The folder may import `cli.durations`, `cli.exit_codes`
and the packages below the command line. Start reading in `table`, which lays out every screen, then in `facts`.
"""
