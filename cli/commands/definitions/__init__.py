"""Commands about definitions: `sagas`, `describe`, `catalog` and `prove`.

They load the project's modules and need neither a store nor Temporal; `prove` also runs the functions of a saga, in
memory. They may import every part of `amends.cli` but `app`. Start reading in `sagas`, which has `describe` too.
"""
