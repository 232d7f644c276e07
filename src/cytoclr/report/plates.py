"""Plates as they stand: a number of each well, in its place."""

from typing import Any

from cytoclr.report.inputs import ReportInputs

__all__ = ["lay_out_plates"]


def lay_out_plates(inputs: ReportInputs) -> dict[str, Any]:
    """Lay out what is measured of each well."""
    return {}
