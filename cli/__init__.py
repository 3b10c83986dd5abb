"""The command line: commands, rendering, settings, and the choice of adapters."""

import os
import sys
from contextlib import suppress

__all__ = ["main"]

_TEMPORAL = "temporalio.bridge.temporal_sdk_bridge"


def main() -> int:
    """Run the process's command line and give its exit status; what `amends` in the scripts folder calls.

    When Temporal was used, the process ends here and now: threads of its core may outlive a failed connection, and
    abort an interpreter that ends beneath them. Everything else is closed by then, and output is flushed.
    """
    from amends.cli.app import main as run  # noqa: PLC0415 - who reads settings needs no command line

    code = run()
    if _TEMPORAL in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed by whoever started us
                stream.flush()
        os._exit(code)
    return code
