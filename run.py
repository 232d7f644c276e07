"""Do what ``cytoclr run`` does: ``python run.py`` with the config.yaml beside it, or ``python run.py other.yaml``."""

import sys
from pathlib import Path

from cytoclr.cli import app

if __name__ == "__main__":
    arguments = sys.argv[1:]
    names_config = bool(arguments) and not arguments[0].startswith("-")
    config = [] if names_config else [str(Path(__file__).with_name("config.yaml"))]
    app(["run", *config, *arguments])
