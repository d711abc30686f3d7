"""Commands that measure runs: evaluate, verify, compare."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from splitvae.commands.app import app, progress_bar
from splitvae.errors import InputError, SplitVAEError


@app.command(
    help_epilogue="Example: splitvae evaluate runs/mnist --extractor efficientnet-lite0 --protocol both\n\n"
    "Example: splitvae evaluate runs/mnist --extractor mnist-classifier --seeds 3 --metrics frechet"
)
def evaluate(
    run: Path,
    *,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
    protocol: Literal["clean", "paper", "both"] = "clean",
    density: list[str] | None = None,
    n: int = 10_000,
    seeds: int = 1,
    metrics: Literal["all", "frechet"] = "all",
    output: Literal["all", "x_hat"] = "all",
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str | None = None,
    data: str | None = None,
    masks: Path | None = None,
) -> None:
    """Score a run: reconstructions, the prior and every fitted density, each output; metrics.json and report.html.

    Args:
        run: A run directory.
        extractor: inception-v3-compat (its distance is the FID), efficientnet-lite0 and mnist-classifier (work
            offline), clip-…, dinov2-….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        protocol: clean: densities fitted on training codes. paper: a mixture fitted on the codes of the very test
            images that are the reference, as in the paper; shown apart, for comparison with it only.
        density: Names of fitted densities; all without it.
        n: Images on either side; all test images where there are fewer.
        seeds: Of the sampling; with several, mean ± standard deviation.
        metrics: all, or frechet for the Fréchet distances only, which takes half the time on a CPU.
        output: all: x_hat, the blend, its K components and their mix; x_hat alone takes 1 / (1 + K) of the time.
        precision: bf16: features in bf16, provided that it moves the distance by less than 0.5 %; faster on a GPU.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
        masks: Given masks to compare the model's with (see `train --masks`), if not those that it was trained with.
    """
    from splitvae.evaluation.extractors import check_extractor

    check_extractor(extractor)
    from rich.console import Console

    from splitvae.evaluation.crew import crew_of_launch
    from splitvae.evaluation.evaluate import evaluate as evaluate_run
    from splitvae.evaluation.mask_iou import iou_words
    from splitvae.evaluation.split_kind import split_words
    from splitvae.reports.report import component_line, write_report
    from splitvae.reports.terminal import evaluation_tables, print_table
    from splitvae.run import Run

    with crew_of_launch() as crew:
        console = Console(highlight=False, markup=False, quiet=crew.rank > 0)
        opened = crew.prepare(lambda: Run.open(run).at(data))
        with progress_bar(console) as bar:
            task = bar.add_task("images", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            def say(line: str) -> None:
                console.print(line, style="dim", soft_wrap=True)

            result = evaluate_run(
                opened, extractor, protocol, density, n, seeds, metrics, extractor_weights, device, precision, None,
                say, progress, crew, masks, output,
            )  # fmt: skip
        for table in evaluation_tables(result):
            print_table(console, table)
        for note in result["notes"]:
            console.print(f"note: {note}", soft_wrap=True)
        console.print(result["diagnosis"], soft_wrap=True)
        if result["split"] is not None:
            console.print(split_words(result["split"]), soft_wrap=True)
            if (line := component_line(result)) is not None:
                console.print(line, soft_wrap=True)
        if result["masks"] is not None:
            console.print(iou_words(result["masks"]), soft_wrap=True)
        console.print(f"{opened.path / 'metrics.json'}, {write_report(opened)}", soft_wrap=True)


@app.command(help_epilogue="Example: splitvae verify runs/mnist --source normal")
def verify(
    run: Path,
    *,
    source: list[str] | None = None,
    tolerance: float = 1e-3,
    extractor_weights: Path | None = None,
    device: str | None = None,
    data: str | None = None,
) -> None:
    """Recompute a run's metrics.json from model, densities and seeds, and say what agrees; status 1 if not all does.

    Args:
        run: A run directory that was evaluated.
        source: REC, normal, or the name of a density; all without it.
        tolerance: Of numbers, relative: other machines round otherwise.
        extractor_weights: A file with the extractor's weights, for machines without a network.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
    """
    if not 0 <= tolerance < 1:
        raise InputError(f"--tolerance must lie in [0, 1), not {tolerance}.")
    from rich.console import Console

    from splitvae.evaluation.verify import verify as verify_run

    console = Console(highlight=False, markup=False)
    checks = verify_run(
        run, None, tolerance, source, extractor_weights, device, data, lambda line: console.print(line, soft_wrap=True)
    )
    wrong = [check for check in checks if not check.agrees]
    for check in wrong:
        console.print(f"differs: {check.what}: written {check.written}, found {check.found}", soft_wrap=True)
    console.print(f"{len(checks) - len(wrong)} of {len(checks)} checks agree", soft_wrap=True)
    if wrong:
        raise SplitVAEError(f"{run / 'metrics.json'} is not what model, densities and seeds give now.")


@app.command(help_epilogue="Example: splitvae compare runs/split runs/vanilla")
def compare(
    run: list[Path],
    *,
    metric: str = "frechet_distance",
    protocol: Literal["clean", "paper"] = "clean",
    mixed: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
) -> None:
    """Put evaluated runs side by side; runs that differ in their seed only are one column.

    Args:
        run: Two or more evaluated run directories.
        metric: A name of metrics.json: frechet_distance, frechet_distance_train, kid, precision, recall, density, ….
        protocol: Whose lines.
        mixed: Allow runs that were measured otherwise (extractor, counts, reference), and mark their columns.
        out: A .json for the table.
    """
    if out is not None and out.suffix != ".json":
        raise InputError(f"cannot write the table to {out.name}: use a name that ends in .json.")
    from rich.console import Console

    from splitvae.evaluation.compare import compare as compare_runs
    from splitvae.files import write_json
    from splitvae.reports.terminal import comparison_notes, comparison_table, print_table

    result = compare_runs(list(run), metric, protocol, mixed)
    console = Console(highlight=False, markup=False)
    print_table(console, comparison_table(result))
    for note in comparison_notes(result):
        console.print(note, soft_wrap=True)
    if out is not None:
        write_json(out, result)
