"""Tables, figures and the HTML report, from results and telemetry alone."""

from .figures import write_figures
from .html import write_report
from .terminal import print_summary

__all__ = ["print_summary", "write_figures", "write_report"]
