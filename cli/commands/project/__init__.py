"""Commands about a project and its processes: `init`, `dev`, `worker` and `doctor`.

They may import every part of `amends.cli` but `app`. Start reading in `worker`; its work is in `cli.runtime.worker`.
"""
