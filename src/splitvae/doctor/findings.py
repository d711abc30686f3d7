"""One line per check: what was found, whether that is fine, and what to do if not."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

Level = Literal["ok", "note", "warning"]
MARKS: dict[Level, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("·", "cyan"), "warning": ("!", "bold yellow")}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, a word or two.
        level: "ok"; "note", worth knowing, often harmless; "warning", to look at before going on.
        text: one line with the numbers.
        remedy: what to do; "" where nothing needs to be done.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""


def counted(n: int, word: str) -> str:
    """``"1 image"``, ``"2 images"``, ``"2 classes"``."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}{'es' if word.endswith('s') else 's'}"


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print findings: wrapped on a terminal, one line for each text and remedy elsewhere (for grep)."""
    indent = max(len(finding.check) for finding in findings) + 4
    width = max(console.width, indent + 40) if console.is_terminal else 10**6
    for finding in findings:
        mark, style = MARKS[finding.level]
        paragraphs = [finding.text] + ([f"→ {finding.remedy}"] if finding.remedy else [])
        # Commands and file names stay whole, to be copied.
        lines = [
            line
            for text in paragraphs
            for line in textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False)
        ]
        head = Text.assemble((mark, style), f" {finding.check}".ljust(indent - 1), lines[0])
        console.print(head, soft_wrap=True)
        for line in lines[1:]:
            console.print(" " * indent + line, soft_wrap=True)
    console.print(f"\n{_summary(findings)}", soft_wrap=True)


def _summary(findings: Sequence[Finding]) -> str:
    warnings, notes = (sum(finding.level == level for finding in findings) for level in ("warning", "note"))
    noted = f", {counted(notes, 'note')}" if notes else ""
    if warnings == 0:
        return f"Nothing to worry about in {counted(len(findings), 'check')}{noted}."
    return f"{counted(warnings, 'check')} to look at{noted}, {len(findings) - warnings - notes} fine."
