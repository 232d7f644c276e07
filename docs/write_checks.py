"""Write the reference of checks from their codes: ``python docs/write_checks.py > docs/reference/checks.md``."""

import sys
from collections.abc import Iterator

from cytoclr.errors import CODES

GROUPS = {
    "META": "metadata: screen tables, plate maps, mechanisms",
    "NAME": "names: files, channels",
    "IMG": "images",
    "LOC": "locations and masks",
    "CHAN": "channels: the contract between plate, crops and model",
    "CROP": "ready crops",
    "DISK": "disk",
    "NET": "network",
}

HEAD = """# Checks

`cytoclr check config.yaml` looks for what would go wrong, or make no sense, before hours are spent: at all tables, at
the names of all files, and at the pixels of a sample of sites spread over all plates (`--every`: of all; of remote
screens four). Nothing is written. `cytoclr crop` looks at twelve sites in the same way before it cuts anew: it refuses
errors, and logs warnings.

| | means | exit code |
|---|---|---|
| error | a stage would refuse it, or its result would be wrong | 3 |
| warning | it can be done; look at it first | 0 |
| note | worth knowing: what cannot be scored, what the crops will take | 0 |

With `--json` the findings are printed as JSON: `looked_at`, `of`, `unit` (sites, or cells of ready crops), `plates`,
and `findings`, each with `code`, `severity`, `message`, `examples` (the first few), `count` and `fix`. A code never
gets another meaning; words may change. Refusals of other verbs end in the same codes. Written by
`docs/write_checks.py`."""


def main() -> None:
    """Print the page."""
    sys.stdout.write("\n".join(write_page()) + "\n")


def write_page() -> Iterator[str]:
    """Yield the page's lines."""
    yield HEAD
    group = ""
    for code, meaning in CODES.items():
        prefix = code.rstrip("0123456789")
        if prefix != group:
            group = prefix
            yield f"\n## {group}: {GROUPS[group]}\n\n| code | meaning |\n|---|---|"
        yield f"| `{code}` | {meaning} |"


if __name__ == "__main__":
    main()
