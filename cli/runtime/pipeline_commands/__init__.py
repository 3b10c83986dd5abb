"""The work of `amends pipeline`: status, decisions, runs in this process, held messages and audits.

The commands of `amends.cli.commands.pipelines` read the command line and print; this folder opens the store, the source
and Temporal. Start with `opened.py`.
"""
