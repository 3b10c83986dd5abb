"""Commands about definitions: `sagas`, `describe` and `catalog`.

They load the project's modules and need neither a store nor Temporal. Start reading in `sagas`.
"""
