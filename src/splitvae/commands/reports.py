"""Commands that draw and repeat what the paper shows, and what a run is: figure, reproduce, report."""

from pathlib import Path
from typing import Any, Literal

from splitvae.commands.app import app, progress_bar
from splitvae.errors import InputError


@app.command(
    help_epilogue="Example: splitvae figure 7 runs/mnist --density gmm\n\n"
    "Example: splitvae figure 13 runs/celeba --extractor efficientnet-lite0\n\n"
    "Example: splitvae figure 9 photos/cifar10 photos/celeba --out means.png"
)
def figure(
    number: int,
    *run_or_source: str,
    density: str = "normal",
    output: str = "x_hat",
    n: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
    device: str | None = None,
    data: str | None = None,
) -> None:
    """Draw a figure of the Split-VAE paper from a run.

    1, 2, 3, 4, 7, 12: masks, components and x̂ of generated images. 8, 11, 14: generated images. 9: mean images of data
    sets. 10: reconstructions. 13: the distance along training. 15: masks.

    Args:
        number: Of the figure.
        run_or_source: A run; for figure 9 runs or sources of images, as many as are wanted.
        density: Where latents come from: normal, the prior N(0, I), or the name of one made by `splitvae fit`.
        output: What figures 8, 11 and 14 show: x_hat, x1, x2 … or mix, a random component of each sample.
        n: Number of images; figure 13: of samples for each snapshot. Without it, the figure's own.
        seed: Of the samples.
        out: A .png; without it RUN/figures/figure-N.png, for sources figure-9.png.
        extractor: For figure 13: inception-v3-compat (its distance is the FID), efficientnet-lite0 (works offline), ….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        device: For figure 13: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
    """
    from rich.console import Console

    from splitvae.reports.figures import FIGURES, draw_figure

    console = Console(highlight=False, markup=False)
    with progress_bar(console) as bar:
        task = bar.add_task("images", total=None, visible=number == 13)
        path = draw_figure(
            number, run_or_source, density, output, n, seed, out, extractor, extractor_weights, device, data,
            advance=lambda count: bar.advance(task, count),
        )  # fmt: skip
    drawn = [part for part in (output * (output != "x_hat"), f"density {density}" * (density != "normal")) if part]
    note = f" Drawn: {', '.join(drawn)}." if drawn else ""
    console.print(f"{path}: {FIGURES[number].caption}{note}", soft_wrap=True)


@app.command(help_epilogue="Example: splitvae report runs/mnist --out mnist.html")
def report(run: Path, *, out: Path | None = None, data: str | None = None) -> None:
    """Write the report of an evaluated run again: one self-contained HTML file with its tables and pictures.

    Args:
        run: A run directory with metrics.json, see `splitvae evaluate`, which writes the report too.
        out: An .html; without it RUN/report.html.
        data: Where the run's data is now, if not where it was.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write the report to {out.name}: use a name that ends in .html.")
    from splitvae.reports.report import write_report
    from splitvae.run import Run

    print(write_report(Run.open(run).at(data), out))


@app.command(
    help_epilogue="Example: splitvae reproduce table2 --extractor efficientnet-lite0 --out table2\n\n"
    "Example: splitvae reproduce table2 --data photos/cifar10 --out table2"
)
def reproduce(
    table: Literal["table2"],
    *,
    data: str | None = None,
    out: Path,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
) -> None:
    """Measure a table of the Split-VAE paper again, beside what the paper prints.

    table2: the distance of each class of a labelled source, of random mixes of all, and of 1, 2 … classes joined, from
    the test images of all. Features are kept in the cache for the next time.

    Args:
        table: Which.
        data: A labelled source; without it the cifar10 preset's.
        out: A folder for table2.json and table2.png.
        extractor: inception-v3-compat (its distance is the FID), efficientnet-lite0 (works offline), clip-…, dinov2-….
        extractor_weights: A file with the extractor's weights, for machines without a network.
    """
    if out.suffix.lower() in (".png", ".json", ".npz", ".csv"):
        raise InputError(f"cannot write a table to {out.name}: --out is a folder, for the numbers and a picture.")
    from rich.console import Console

    from splitvae.presets import PRESETS
    from splitvae.reports.plots import save_plot
    from splitvae.reproduce.table2 import images_in_all, open_labelled, table2, table2_plot

    data = data or str(PRESETS["cifar10"].values["data"])
    console = Console(highlight=False, markup=False)
    with progress_bar(console) as bar:
        images = bar.add_task("images", total=images_in_all(open_labelled(data)[0]))
        distances = bar.add_task("distances", total=None, visible=False)
        result = table2(
            data, extractor, out, weights=extractor_weights, advance=lambda count: bar.advance(images, count),
            measured=lambda done, total: bar.update(distances, completed=done, total=total, visible=True),
        )  # fmt: skip
    save_plot(table2_plot(result), out / "table2.png")
    _print_table2(console, result)
    console.print(f"{out / 'table2.json'}, {out / 'table2.png'}", soft_wrap=True)


def _print_table2(console: Any, result: dict[str, Any]) -> None:
    from rich.table import Table

    from splitvae.reports.terminal import print_table

    def told(entry: dict[str, Any]) -> str:
        return f"{entry['mean']:.2f}" + ("" if entry["sd"] is None else f" ± {entry['sd']:.2f}")

    card, published = result["card"], result["published"]
    table = Table(box=None, pad_edge=False)
    for title, justify in (("images of", "left"), (result["distance"], "right"), ("paper", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for entry in result["classes"]:
        table.add_row(entry["name"], f"{entry['distance']:.2f}", "")
    mixes = f"a mix of all classes, {len(result['mix']['distances'])} seeds"
    table.add_row(mixes, told(result["mix"]), f"{published['mix']:g}")
    floor = result["floor"]
    table.add_row(f"floor: {floor['images_of_each']:,} training from as many others", f"{floor['distance']:.2f}", "")
    for entry in result["curve"]:
        choices = f"{len(entry['subsets'])} choice{'s' * (len(entry['subsets']) > 1)}"
        table.add_row(f"{entry['labels']} class{'es' * (entry['labels'] > 1)}, {choices}", told(entry), "")
    print_table(console, table)
    console.print(
        f"{card['images_of_each_choice']:,} training and mirror images against {card['test_images']:,} test images of "
        f"{card['source']}; {card['extractor']}, {card['resize']}, weights {card['weights_sha256'][:8]}",
        soft_wrap=True,
    )
    console.print(f"paper: {published['protocol']}", soft_wrap=True)
    for note in result["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
