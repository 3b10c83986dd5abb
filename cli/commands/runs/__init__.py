"""Commands about runs: start, list, show, explain, decide and recover.

`run` starts runs, `list`, `show`, `explain` and `history` read them, `intervene` has the operators' decisions, and
`recover` lets Temporal drive lost runs again.

They may import every part of `amends.cli` but `app`. Start reading in `show`.
"""
