"""The loops that read sources and commit their messages to the store.

The folder may import everything of pipelines but `temporal` and `testing`. Start reading with `partition_work.py`, the
port by which `amends.pipelines.temporal` owns partitions.
"""
