"""What a biologist looks at: tables and crops become one self-contained HTML file."""

from cytoclr.report.comparison import ComparedRun, write_comparison
from cytoclr.report.inputs import ReportInputs, leave_out_untreated
from cytoclr.report.page import render_report, write_report
from cytoclr.report.shown import list_cells

__all__ = [
    "ComparedRun",
    "ReportInputs",
    "leave_out_untreated",
    "list_cells",
    "render_report",
    "write_comparison",
    "write_report",
]
