"""What a biologist looks at: tables and crops become one self-contained HTML file."""

from cytoclr.report.inputs import ReportInputs
from cytoclr.report.page import write_report

__all__ = ["ReportInputs", "write_report"]
