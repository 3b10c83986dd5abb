"""Explore a plan without any code of the user: the ways in which its runs can end.

This folder owns the fixed results of such a search, and its table of ends. It may import the rest of
`amends.sagas.prove`. Start reading with `plan_only.py`, then `reachable.py`.
"""
