"""The command line: one verb per stage; it reads arguments, calls the pipeline and prints.

Heavy imports stay inside functions, so that ``cytoclr --help`` answers at once.
"""

from cytoclr.cli import acquire, plates, reports, slurm, stages, tables
from cytoclr.cli.app import app

__all__ = ["acquire", "app", "main", "plates", "reports", "slurm", "stages", "tables"]


def main() -> None:
    """Run the command line."""
    app()
