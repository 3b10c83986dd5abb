"""Tests of pipelines without a broker: a source in memory, and scenarios with given messages.

The folder may import everything of pipelines but `temporal`. Start reading with `scenario.py`, which users import from
`amends.testing`.
"""
