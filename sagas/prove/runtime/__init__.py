"""The search with a clock: it ends within a time budget.

It may import `amends.sagas.prove` and everything below it. Start reading with `explore.py`.
"""
