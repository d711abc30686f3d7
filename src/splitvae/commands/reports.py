"""Commands that draw what the paper shows, and what a run is: figure, report."""

from pathlib import Path

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
        run_or_source: A run; without one, for what is generated, the small model that comes along; for figure 9 runs or
            sources of images, as many as are wanted.
        density: Where latents come from: normal, the prior N(0, I), or the name of one made by `splitvae fit`.
        output: What figures 8, 11 and 14 show: x_hat, x1, x2 … or mix, a random component of each sample.
        n: Number of images; figure 13: of samples for each snapshot. Without it, the figure's own.
        seed: Of the samples.
        out: A .png; without it RUN/figures/figure-N.png, without a run figure-N.png.
        extractor: For figure 13: inception-v3-compat (its distance is the FID), efficientnet-lite0 (works offline), ….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        device: For figure 13: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
    """
    from rich.console import Console

    from splitvae.packaged import packaged_run
    from splitvae.reports.figures import FIGURES, SAMPLED, draw_figure

    if not run_or_source and number in FIGURES and FIGURES[number].kind in SAMPLED:
        run_or_source, out = (str(packaged_run().path),), out or Path(f"figure-{number}.png")
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
