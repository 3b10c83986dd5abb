"""The search with a clock: it ends within a time budget.

`explore` runs one search, `matrix` one for each contract, and `proof` is the decorator `@prove` of tests. `watch` and
`repeated` check that the user's functions do no I/O and are deterministic. The folder may import `amends.sagas.prove`
and everything below it. Start reading with `explore.py`.
"""
