"""The command line: commands, rendering, settings, and the choice of adapters."""

__all__ = ["main"]


def main() -> int:
    """Run the process's command line and give its exit status; what `amends` in the scripts folder calls."""
    from amends.cli.app import main as run  # noqa: PLC0415 - who reads settings needs no command line

    return run()
