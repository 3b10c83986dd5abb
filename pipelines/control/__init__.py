"""The control of a pipeline: facts of its stream `pipeline/<name>`, their fold, and the decisions of operators. Pure.

The owner of a partition reads the state in each of its units, so a decision holds from the next commit on. Start with
`facts`, then `state`, then `decide`.
"""
