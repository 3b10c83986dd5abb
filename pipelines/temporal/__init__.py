"""Ownership of partitions through Temporal: which process works on which partition.

Each partition of a pipeline or relay has a durable workflow, which runs one activity at a time, the slice. The worker
that runs the slice owns the partition meanwhile. Temporal assigns slices to workers, repeats the slice of a lost worker
elsewhere, and distributes the partitions again whenever slices end. Safety never depends on Temporal: each commit
compares the owner's token with that in the store, so an owner that Temporal has replaced commits nothing.

The folder may import `amends.pipelines.runtime`, the layers below it, and `amends.sagas.temporal`. Start reading with
`ownership.py`, the rules, which are pure; then `partition_workflow.py`, `slices.py` and `serving.py`.
"""
