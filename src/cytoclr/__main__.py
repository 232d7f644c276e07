"""``python -m cytoclr`` is ``cytoclr``."""

from cytoclr.cli import main

if __name__ == "__main__":
    main()
