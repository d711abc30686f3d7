"""Tables as people see them: in the terminal, as Markdown; and tables 1, 3 and 4 in words and as a picture."""

from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from splitvae.evaluation.metrics import places_for
from splitvae.presets.systems import OWN, SYSTEMS
from splitvae.reports.columns import symbol
from splitvae.reports.plots import BLACK, BLUE, GREEN, new_plot
from splitvae.reproduce.summary import brief, origin_notes, told
from splitvae.reproduce.tables import headline

# Protocol: heading → the source that its column shows.
COLUMNS = {
    "clean": {
        "REC": "REC", "N(0, I)": "normal", "1 Gaussian": "gaussian", "GMM": "gmm", "2nd stage": "second-stage",
    },
    "paper": {"REC": "REC", "N(0, I)": "normal", "GMM on test codes": "gmm-test"},
}  # fmt: skip


def rows_of_table(result: dict[str, Any], protocol: str) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of a protocol's table from ``summarize_table``; columns that nobody fills are left out."""
    used = {
        title: f"{protocol}/{source}"
        for title, source in COLUMNS[protocol].items()
        if any(f"{protocol}/{source}" in line["cells"] for line in result["lines"])
    }
    digits = places_for(result["floor"])
    headings = ["system", "output", "params", "paper's", "GFLOP", *used, "inactive", "published"]
    rows = []
    for line in result["lines"]:
        first = line["output"] == "x_hat"
        facts = ["", "", ""]
        if first:
            facts = [
                f"{line['parameters'] / 1e6:.2f} M",
                _millions(line["published_parameters"]),
                f"{line['gflop']:.2f}",
            ]
        rows.append([
            line["row"] if first else "",
            symbol(line["output"]) + " *" * (line["chosen"] and not first),
            *(facts if first else [""] * len(facts)),
            *(told(line["cells"].get(key), digits) for key in used.values()),
            ", ".join(map(str, line["inactive"])) if first else "",
            _published(line),
        ])  # fmt: skip
    return headings, rows


def terminal_table(title: str, headings: list[str], rows: list[list[str]]) -> Table:
    """A table for the terminal."""
    table = Table(title=title, box=None, pad_edge=False)
    table.title_justify = "left"
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(title: str, tables: dict[str, tuple[list[str], list[list[str]]]], notes: list[str]) -> str:
    """Tables, each under its heading ("" = none), and their notes as a Markdown page."""
    lines = [f"# {title}", ""]
    for heading, (headings, rows) in tables.items():
        lines += [f"## {heading}", ""] if heading else []
        lines.append("| " + " | ".join(headings) + " |")
        lines.append("|" + "|".join("---" if i < 2 else "---:" for i in range(len(headings))) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def table_title(result: dict[str, Any]) -> str:
    """What the table is."""
    return f"Table {result['table'].removeprefix('table')} at scale {result['scale']}: {result['distance']}"


def tables_of(result: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """A table for each protocol: they never share a row."""
    headings = {
        "clean": "Clean protocol: densities fitted on training codes",
        "paper": "Paper protocol: the mixture is fitted on the codes of the test images that it is scored against",
    }
    found = {key.split("/")[0] for line in result["lines"] for key in line["cells"]}
    return {heading: rows_of_table(result, name) for name, heading in headings.items() if name in found}


def notes_of(result: dict[str, Any]) -> list[str]:
    """What a reader of the table must know."""
    seeds = sorted({len(line["seeds"]) for line in result["lines"]})
    count = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    gaussians: dict[int, list[str]] = {}
    for line in result["lines"]:
        if line["output"] == "x_hat":
            gaussians.setdefault(line["gaussians"], []).append(line["row"])
    notes = [
        f"{result['distance']}: mean ± standard deviation over {count} training seed{'s' * (seeds[-1] > 1)}, of which "
        f"densities and samples have their own; {result['images']:,} images on either side, {result['source']}; floor "
        f"(real training images) {result['floor']:.{places_for(result['floor'])}f}",
        "params with batch-norm statistics, without a second stage, and as the paper prints them; GFLOP of a training "
        "step, per image; inactive latents of each seed",
        "Gaussians in GMM: " + "; ".join(f"{k} for {', '.join(rows)}" for k, rows in sorted(gaussians.items())),
        *(
            [
                "* the output nearest to training images, from which the score is read; only SplitVAE has a choice, "
                "which shares its luck with the score, being made on the same samples"
            ]
            if any(line["chosen"] and line["output"] != "x_hat" for line in result["lines"])
            else []
        ),
        *lead_notes(result["lead"], result["distance"]),
        "published: GEN → last column of the paper; ? = recalled, not verified. Theirs and ours differ in more than "
        "the extractor, see the cards of the presets",
    ]
    protocols: dict[tuple[str, str], list[str]] = {}
    for line in result["lines"]:
        for entry in line["published"].values():
            rows = protocols.setdefault((entry["comparable"], entry["protocol"]), [])
            if line["row"] not in rows:
                rows.append(line["row"])
    for (reason, protocol), rows in protocols.items():
        notes.append(f"published, {', '.join(rows)}: {protocol}. Comparable: {reason}")
    doubts = [
        f"published, {line['row']}, {column}: {entry['note']}"
        for line in result["lines"]
        for column, entry in line["published"].items()
        if entry["note"]
    ]
    doubts += [
        f"the paper's parameters, {line['row']}: {line['published_parameters_note']}"
        for line in result["lines"]
        if line["output"] == "x_hat" and line["published_parameters_note"]
    ]
    return notes + list(dict.fromkeys(doubts)) + origin_notes(result)


def lead_notes(lead: dict[str, Any] | None, distance: str) -> list[str]:
    """How far SplitVAE is ahead, in words; nothing where there is nothing to compare."""
    if lead is None:
        return []
    name = SYSTEMS[lead["own"]].row
    verdict, alone, sure = _verdict(lead["difference"]), "", ""
    if lead["interval"] is not None:
        low, high = sorted(end if lead["difference"] > 0 else -end for end in lead["interval"])
        sure = f" (95 % interval {low:.2f} to {high:.2f}, Welch's over training seeds)"
    if lead["x_hat"] not in (None, lead["difference"]):
        alone = f"; by x̂ alone it is {_verdict(lead['x_hat'])}"
    row, unequal = SYSTEMS[lead["best_other"]].row, ""
    own, other = lead.get("gaussians", (None, None))
    if own and other and own != other:
        unequal = f". The mixtures are not equal, {own} Gaussians for {name} and {other}, which may decide it"
    of = f", best of {lead['others']} by these very scores, which flatters it" if lead["others"] > 1 else ""
    return [f"{distance} of the best other, {row}{of}, and {name}: {name} is {verdict}{sure}{alone}{unequal}"]


def _verdict(difference: float) -> str:
    return f"{'ahead' if difference > 0 else 'behind'} by {abs(difference):.2f}"


LABEL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}


def table_plot(result: dict[str, Any]) -> Figure:
    """The score of each system, every seed a dot, beside what it costs: parameters and FLOPs of a training step."""
    chosen = sorted((line for line in result["lines"] if line["chosen"]), key=headline)
    figure, (score, cost) = new_plot(10.6, 4.0, columns=2, width_ratios=(3, 2))
    wide = headline(chosen[-1]) > 10 * headline(chosen[0])  # one that collapsed must not hide the others
    sizes = {_millions(line["parameters"]) for line in chosen}
    for row, line in enumerate(chosen):
        cell = line["cells"][f"clean/{line['density']}"]
        color = GREEN if line["system"] in OWN else BLUE
        score.plot(cell["values"], [row] * len(cell["values"]), "o", color=color, markersize=5, alpha=0.5, mew=0)
        score.plot(cell["mean"], row, "|", color=color, markersize=13, mew=2)
        score.annotate(brief(cell["mean"]), (cell["mean"], row), (0, 7), **LABEL, ha="center")
        cost.plot(line["gflop"], cell["mean"], "o", color=color, markersize=6)
        # Systems of equal cost lie above each other: names in the order of scores at the side, a line to each dot.
        place = (1.08, 0.02 + 0.96 * row / max(len(chosen) - 1, 1))
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "relpos": (0, 0.5)}
        cost.annotate(
            line["row"] if len(sizes) == 1 else f"{line['row']}, {_millions(line['parameters'])}",
            (line["gflop"], cell["mean"]), place, "data", "axes fraction", leader, fontsize=7, va="center",
        )  # fmt: skip
    score.axvline(result["floor"], color=BLACK, linewidth=0.8, linestyle=":")
    outputs = ["" if line["output"] == "x_hat" else f", {symbol(line['output'])}" for line in chosen]
    score.set_yticks(range(len(chosen)), [line["row"] + own for line, own in zip(chosen, outputs, strict=True)])
    score.set_ylim(len(chosen) - 0.5, -0.7)
    score.set_xlabel(result["distance"])
    score.set_title("samples of the fitted density; dotted: floor", fontsize=10, loc="left")
    cost.margins(x=0.1)
    cost.set_xlabel("GFLOP of a training step, per image")
    cost.set_ylabel(result["distance"])
    size = f"{min(sizes)} parameters each" if len(sizes) == 1 else "with parameters"
    cost.set_title(f"against cost, {size}", fontsize=10, loc="left")
    if wide:
        score.set_xscale("log")
        cost.set_yscale("log")
    return figure


def _millions(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.2f} M"


def _published(line: dict[str, Any]) -> str:
    """ "22.2 → 11.5", with a question mark behind what is only recalled."""

    def told(column: str) -> str:
        entry = line["published"].get(column)
        return "–" if entry is None else f"{entry['value']:g}" + ("?" * (entry["status"] == "recalled"))

    return f"{told('GEN')} → {told('density')}" if line["published"] else ""
