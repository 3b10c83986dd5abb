"""Commands about a project and its processes: `init`, `dev`, `worker` and `doctor`.

Start reading in `worker`; its work is in `cli.runtime.worker`.
"""
