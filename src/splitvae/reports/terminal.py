"""Tables for the terminal: an evaluation, a comparison."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from splitvae.evaluation.evaluate import summarize
from splitvae.reports.columns import columns_of, symbol, value


def print_table(console: Console, table: Table) -> None:
    """Print a table at its full width: a narrow terminal folds lines, but no number is cut off."""
    wide = Console(width=10_000, markup=False, highlight=False)
    width = max(console.width, wide.measure(table).maximum)
    Console(file=console.file, width=width, force_terminal=console.is_terminal, markup=False, highlight=False).print(
        table
    )


def evaluation_tables(result: dict[str, Any]) -> list[Table]:
    """One table for each protocol of an evaluation; the floor stands in each."""
    lines = summarize(result["rows"])
    columns = columns_of([row["metrics"] for row in result["rows"]], result["distance"])
    tables = []
    for protocol in dict.fromkeys(line["protocol"] for line in lines):
        table = Table(title=f"{protocol} protocol: {result['card']['protocols'][protocol]}", box=None, pad_edge=False)
        table.title_justify = "left"
        for heading in ("latents from", "output"):
            table.add_column(heading, no_wrap=True)
        for heading, _, _ in columns.values():
            table.add_column(heading, justify="right")
        before = None
        for line in (line for line in lines if line["protocol"] == protocol):
            numbers = [value(line, name, digits) for name, (_, digits, _) in columns.items()]
            source = line["source"] if line["source"] != before else ""
            table.add_row(source, symbol(line["output"]), *numbers)
            before = line["source"]
        floor = [value({"mean": result["floor"]}, name, digits) for name, (_, digits, _) in columns.items()]
        table.add_row("floor", "train", *floor, style="dim")
        tables.append(table)
    return tables


def comparison_table(result: dict[str, Any]) -> Table:
    """Lines of two or more systems with mean ± spread, the best marked, and what the seeds allow to say."""
    what = result["distance"] if result["metric"] == "frechet_distance" else result["metric"]
    table = Table(title=f"{what}, {result['protocol']} protocol", box=None, pad_edge=False)
    table.title_justify = "left"
    table.add_column("latents from")
    table.add_column("output")
    for system in result["systems"]:
        table.add_column(system["name"] + (" *" if system["differs"] else ""), justify="right")
    for line in result["lines"]:
        table.add_row(line["source"], symbol(line["output"]), *(_cell(cell) for cell in line["cells"]))
    return table


def comparison_notes(result: dict[str, Any]) -> list[str]:
    """What a reader of the table must know: marked columns, unlike densities, what the intervals are of."""
    notes = [
        f"* {system['name']} was measured otherwise: {'; '.join(system['differs'])}"
        for system in result["systems"]
        if system["differs"]
    ]
    cells = [cell for line in result["lines"] for cell in line["cells"] if cell and cell.get("interval")]
    for paired_by, pairs in sorted({(cell["paired_by"], cell["pairs"]) for cell in cells}):
        luck = " (the luck of training is not in them)" if paired_by == "sampling seeds" else ""
        notes.append(f"[…]: 95 % interval of the difference to the best, from {pairs} pairs of {paired_by}{luck}")
    return notes + result["notes"]


def _cell(cell: dict[str, Any] | None) -> Text:
    if cell is None:
        return Text("–")
    text = f"{cell['mean']:.4g}" + (f" ± {cell['spread']:.2g}" if cell["spread"] is not None else "")
    if cell["verdict"] == "best":
        return Text(f"{text} best", style="bold")
    if cell["interval"] is None:
        return Text(f"{text} ({cell['verdict']})")
    low, high = cell["interval"]
    return Text(f"{text} ({cell['verdict']}, {cell['difference']:+.2g} [{low:+.2g}, {high:+.2g}])")
