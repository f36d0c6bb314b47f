"""`bench doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from harness.cli import output
from harness.cli.options import AsJSON, Home

if TYPE_CHECKING:
    from harness.finding import Finding, Level

_LEVELS: tuple[Level, ...] = ("ok", "warn", "bad")


def doctor(as_json: AsJSON = False, home: Home = None) -> None:
    """Look at versions, GPU, memory, disk, history and data; exit status 1 if something is bad."""
    from harness.doctor import diagnose
    from harness.runs import home_folder
    from harness.types import to_json

    findings = list(diagnose(home_folder(home)))
    worst = max((finding.level for finding in findings), key=_LEVELS.index)
    if as_json:
        listed = [to_json(finding) for finding in findings]
        output.print_json({"status": worst, "findings": listed})
    else:
        print("\n".join(_line(finding) for finding in findings))
    if worst == "bad":
        raise typer.Exit(1)


def _line(finding: Finding) -> str:
    line = f"{finding.level:<6}{finding.check:<14}{finding.text}"
    return line + (f"\n{'':<20}hint: {finding.hint}" if finding.hint else "")
