"""`report.html` of a calibration: a page that opens offline and says how far the cameras can be trusted, and why."""

from __future__ import annotations

from pathlib import Path

from calibration.gates import report_file
from studio.calibration_report.account import Account, Link, Row, Seen
from studio.calibration_report.of_boards import account_of_boards
from studio.calibration_report.of_people import account_of_people
from studio.freshness import write_text

__all__ = ["Account", "Link", "Row", "Seen", "account_of_boards", "account_of_people", "write_report"]


def write_report(cameras: Path, account: Account) -> Path:
    """Write the report beside a camera file; the file written."""
    from studio.calibration_report.page import page  # here, for the viewer takes seconds to import
    from studio.calibration_report.scene import rig_scene

    return write_text(report_file(cameras), page(account, rig_scene(account)))
