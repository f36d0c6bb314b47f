"""What commands print: data to stdout in one of a few formats, talk to stderr."""

from __future__ import annotations

import csv
import html
import io
import json
import sys
from collections.abc import Callable, Sequence

from harness.errors import UsageError, did_you_mean

Columns = Sequence[str]
Rows = Sequence[Sequence[object]]


def say(text: str) -> None:
    """Talk: progress, notes and warnings never mix with the data on stdout."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def known_format(format: str) -> str:
    """The format itself; raises UsageError for one that `render` has not."""
    if format not in FORMATS:
        hint = did_you_mean(format, FORMATS, f"one of {', '.join(FORMATS)}")
        raise UsageError(f"unknown format `{format}`", hint)
    return format


def render(columns: Columns, rows: Rows, format: str = "table") -> str:
    """Rows as `table`, `md`, `csv`, `json` (one object per row), `html` or `latex`."""
    return FORMATS[format](columns, rows)


def cell(value: object) -> str:
    """A value as people read it: four decimals, or four digits of what is smaller; nothing for
    null."""
    if value is None:
        return ""
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        return f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return str(value)


def _table(columns: Columns, rows: Rows) -> str:
    cells = [[_one_line(cell(value)) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(columns))
    ]

    def line(values: Sequence[str]) -> str:
        aligned = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, cells)])


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _markdown(columns: Columns, rows: Rows) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

    body = [line([_one_line(cell(value)) for value in row]) for row in rows]
    return "\n".join([line(columns), "|" + " --- |" * len(columns), *body])


def _csv(columns: Columns, rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _json(columns: Columns, rows: Rows) -> str:
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    return json.dumps(objects, indent=2, ensure_ascii=False, default=str)


def _html(columns: Columns, rows: Rows) -> str:
    def line(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values) + "</tr>"

    body = [line("td", [cell(value) for value in row]) for row in rows]
    return "\n".join(["<table>", line("th", columns), *body, "</table>"])


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _latex(columns: Columns, rows: Rows) -> str:
    def line(values: Sequence[str]) -> str:
        return " & ".join(_one_line(value).translate(_LATEX) for value in values) + r" \\"

    body = [line([cell(value) for value in row]) for row in rows]
    head = [rf"\begin{{tabular}}{{{'l' * len(columns)}}}", r"\hline", line(columns), r"\hline"]
    return "\n".join([*head, *body, r"\hline", r"\end{tabular}"])


FORMATS: dict[str, Callable[[Columns, Rows], str]] = {
    "table": _table,
    "md": _markdown,
    "csv": _csv,
    "json": _json,
    "html": _html,
    "latex": _latex,
}
