"""Do what ``cytoclr run`` does: ``python run.py`` with the config.yaml beside it, or ``python run.py other.yaml``."""

import sys
from pathlib import Path

from cytoclr.cli import app

if __name__ == "__main__":
    beside = str(Path(__file__).with_name("config.yaml"))
    app(["run", *sys.argv[1:]], default_map={"run": {"config": beside}})
