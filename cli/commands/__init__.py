"""The commands of `amends`, one folder for each group in which `amends --help` lists them.

A module here parses the options of one or a few commands, calls the work and prints the answer. The folder may import
every other part of `amends.cli` but `app`, which imports a module here only when the user calls its command. Start
reading in `runs.show`, which reads, and in `runs.intervene`, which decides.
"""
