"""What a check finds: findings, and how many sites they were looked for in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from cytoclr.errors import CODES, CytoclrError
from cytoclr.tables import SITE

__all__ = ["NUM_EXAMPLES", "Checked", "Finding", "Severity", "name_sites", "sort_findings", "tell_refusal"]

Severity = Literal["error", "warning", "note"]

#: Examples that a finding shows.
NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Something found: what, what was expected, where first, how often, and what to do about it.

    `code` is one of `cytoclr.errors.CODES`. `error` is the refusal it comes from, if a stage would refuse so itself.
    """

    code: str
    severity: Severity
    message: str
    examples: tuple[str, ...] = ()
    count: int = 1
    fix: str = ""
    error: CytoclrError | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Know the code."""
        assert self.code in CODES, self.code


@dataclass(frozen=True)
class Checked:
    """What was found, errors first, and in how many sites (or ready crops) of how many it was looked for."""

    findings: tuple[Finding, ...]
    num_looked_at: int = 0
    num_rows: int = 0
    num_plates: int = 0
    unit: Literal["sites", "cells"] = "sites"

    def count(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Put errors first, then warnings, then notes; otherwise as they came."""
    order = ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def tell_refusal(error: CytoclrError, fallback: str = "META001") -> Finding:
    """Make a finding of a refusal; `fallback` is the code of one that has none."""
    return Finding(error.code or fallback, "error", str(error), error=error)


def name_sites(rows: pd.DataFrame) -> tuple[str, ...]:
    """Name the first few sites of a table."""
    first = rows[SITE].head(NUM_EXAMPLES).itertuples(index=False, name=None)
    return tuple(f"{plate} {well} s{site}" for plate, well, site in first)
