"""The command line: the program `amends`, its commands and what they print.

The folder owns the parsing of arguments, the settings of a project, the choice of adapters (store, Temporal) and every
text on the screen. The public `Client` and `Worker` are in `runtime`, because they read the same settings. The folder
may import all other layers, but not `amends.testing`; no other layer imports it. Inside, imports run downwards: `app`,
`commands`, `runtime`, `output`, then `project` and `views`, then `durations` and `exit_codes`.
Start reading in `app`, which lists the commands; the function of a command is in `commands`, its work in `runtime`.
"""

import os
import sys
from contextlib import suppress

__all__ = ["main"]

_TEMPORAL = "temporalio.bridge.temporal_sdk_bridge"


def main() -> int:
    """Run the command line of this process and return its exit status; the script `amends` calls this function.

    If the process used Temporal, the function ends the process at once: threads of Temporal's core can outlive a failed
    connection, and they abort an interpreter that shuts down beneath them. By then every part is closed, and the output
    is flushed.
    """
    from amends.cli.app import main as run  # noqa: PLC0415 - a program that only reads settings needs no command line

    code = run()
    if _TEMPORAL in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed by the parent process
                stream.flush()
        os._exit(code)
    return code
