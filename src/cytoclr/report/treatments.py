"""How treatments relate: their neighbours, their doses, their similarities."""

from typing import Any

from cytoclr.report.inputs import ReportInputs
from cytoclr.report.shown import Shown

__all__ = ["relate_treatments"]


def relate_treatments(inputs: ReportInputs, shown: Shown) -> dict[str, Any]:
    """List neighbours, doses and similarities of treatments; the untreated are not among them."""
    return {}
