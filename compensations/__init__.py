"""How steps are undone: the catalog of all compensations, and the order in which a run runs them. Pure.

It may import `aggregates`, and nothing above it: `sagas`, `reconciler` and `cli` import this package.

Start with `catalog`, which lists for every step how it is undone or why it is not; `order` decides the order.
"""
