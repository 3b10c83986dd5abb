"""Commands that operate pipelines: `amends pipeline list`, `show`, `run`, `pause` and so on.

Each module has a few of the commands; `pipeline.py` puts them together.
"""
