"""The work behind the commands: the choice of adapters, the worker, the session of `amends run`, and stopping in time.

Only this folder of the command line opens stores and connects to Temporal. It may import `cli.output`, `cli.views`,
`cli.project` and the packages below the command line, but not `cli.commands`. Start reading in `wiring`, which picks
the adapters, then in `worker` and `run_session`.
"""
