"""The command that repeats the tables and claims of the Split-VAE paper: reproduce."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from splitvae.commands.app import app, progress_bar
from splitvae.errors import InputError, SplitVAEError

RESULTS = Path("docs/results/runs")  # of a checkout


@app.command(
    help_epilogue="Example: splitvae reproduce table1 --data photos/mnist --out runs --extractor efficientnet-lite0\n\n"
    "Example: splitvae reproduce table3 --scale paper --out runs --only rae-l2,svae --seeds 1 --dry-run\n\n"
    "Example: splitvae reproduce table2 --data photos/cifar10 --out table2"
)
def reproduce(
    what: Literal["table1", "table2", "table3", "table4", "latents", "components", "tuning", "tuned", "best", "splits"],
    *,
    out: Path = Path("runs"),
    on: Literal["mnist", "cifar10", "celeba"] | None = None,
    data: str | None = None,
    scale: Literal["small", "paper"] = "small",
    only: str | None = None,
    seeds: int | None = None,
    n: int | None = None,
    results: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    finished: Annotated[bool, Parameter(negative=())] = False,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: str | None = None,
) -> None:
    """Measure a table or a claim of the Split-VAE paper again, beside what the paper prints.

    table1, table3, table4: every system on MNIST, CIFAR-10, CelebA; what is missing is trained, what was interrupted
    goes on, what is finished is not run again. table2: the distance of each class of a labelled source, of random
    mixes of all, and of 1, 2 … classes joined, from the test images of all; no model takes part.

    latents: whether the split permits more of them. components: what the number of Gaussians does to each system.
    tuning: as many trials for every system, judged on training images, seed 0 alone. tuned: each by its best trial.
    best: SplitVAE by our own recipe, and the others with what they can take of it.
    splits: what the number of components and the knobs of the split do.

    Args:
        what: Which.
        out: A folder: for the runs and the table, or for table2.json and table2.png; without it, runs.
        on: The data set of what is no table; without it mnist.
        data: Where the data is; without it the preset's source on the hub.
        scale: small = minutes of training on two cores, paper = the authors' networks and epochs, for a GPU.
        only: Systems, with commas between: rae-gp, rae-l2, rae-sn, 2s-vae, balanced-2s-vae, svae, vae, …; of splits its
            variants, such as "K = 1,semantic".
        seeds: Of training: 0, 1 …, of tuned and best 1, 2 …; without it 3, for tuning 1. For table2 of the random
            mixes; without it 5.
        n: Images on either side of a distance; without it 5,000 for small, else 10,000.
        results: Small files with what is finished; without it docs/results/runs where it exists, else OUT/results.
        dry_run: Tell what would be done, and do nothing.
        finished: Show what is finished, with what is missing named, and make nothing.
        extractor: inception-v3-compat (its distance is the FID), efficientnet-lite0 (works offline), clip-…, dinov2-….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        precision: Of training what is missing; auto as for train. Numbers of one table should have one: on MNIST, bf16
            and fp32 moved the distance of an autoencoder by a tenth.
        device: Of densities and features: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = out.expanduser()
    if out.suffix.lower() in (".png", ".json", ".npz", ".csv", ".md"):
        raise InputError(f"cannot write a table to {out.name}: --out is a folder, for the numbers and a picture.")
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if what == "table2":
        refused = {
            "--dry-run": dry_run,
            "--finished": finished,
            "--only": only,
            "--results": results,
            "--on": on,
            "--scale": scale != "small",
        }
        for option, given in refused.items():
            if given:
                raise InputError(f"{option} does not apply to table2, which trains nothing; leave it out.")
        seeds = 5 if seeds is None else seeds
        _table2(console, data, out, extractor, extractor_weights, 10_000 if n is None else n, seeds, device)
        return
    from splitvae.evaluation.extractors import canonical_name
    from splitvae.pictures import save_picture
    from splitvae.reports.plots import save_plot
    from splitvae.reports.terminal import print_table
    from splitvae.reproduce.answers import answer, jobs_for
    from splitvae.reproduce.plan import Planned, carry_out, plan
    from splitvae.reproduce.render import markdown, terminal_table
    from splitvae.reproduce.results import slug
    from splitvae.reproduce.samples import samples_picture
    from splitvae.reproduce.tables import TABLES

    if results is None:
        results = RESULTS if RESULTS.is_dir() else out / "results"
    usual = 1 if what == "tuning" else 3
    seeds = usual if seeds is None else seeds
    systems = None if only is None else list(dict.fromkeys(name.strip() for name in only.split(",")))
    if on is not None and what in TABLES:
        raise InputError(f"--on does not apply to {what}, whose data set is {TABLES[what][0]}; leave it out.")
    if only is not None and what == "latents":
        raise InputError("--only does not apply to latents, which is about svae and vae; leave it out.")
    on = on or "mnist"
    # The bar counts images of an evaluation; it steps aside for lines, and for training, which has a bar of its own.
    bar = progress_bar(console)
    task = bar.add_task("images", total=None)

    def say(line: str) -> None:
        bar.stop()
        console.print(line, soft_wrap=True)

    def progress(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    failed: dict[str, str] = {}
    tuning: dict[str, Any] | None = None

    def made(planned: list[Planned]) -> list[dict[str, Any]]:
        try:
            found, lost = carry_out(
                planned, out, results, extractor, data, extractor_weights, device, say, progress, False, precision
            )
        finally:
            bar.stop()
        failed.update(lost)
        return found

    # A name for each set of choices, so that none replaces another's table.
    choices = [slug(system) for system in systems or []] + [slug(canonical_name(extractor))]
    choices += [f"{seeds}-seeds"] * (seeds != usual) + ([] if n is None else [f"{n}-images"])
    name = "-".join([what, *([] if what in TABLES else [on]), scale, *choices])

    def planned_for(what: str, seeds: int) -> list[Planned]:
        return plan(jobs_for(what, on, scale, systems, seeds, n, tuning), out, results, extractor)

    if what != "tuned":
        planned = planned_for(what, seeds)
    else:  # by the best trials of a tuning, which comes first
        planned = planned_for("tuning", 1)
        tuned = all(entry.state == "finished" for entry in planned)
        if finished and not tuned:
            raise InputError("the tuning, which comes first, is not finished: leave --finished out.")
        if tuned or not dry_run:
            tuning = answer("tuning", made(planned)).result
            planned = planned_for("tuned", seeds)
    if dry_run:
        for entry in planned:
            config = entry.job.config
            size = f"epochs {config.epochs}, {config.model} on {config.network}"
            fitted = ", ".join(entry.job.densities)
            console.print(f"{entry.job.name}: {entry.state}; {size}, densities {fitted}", soft_wrap=True)
        missing = sum(entry.state != "finished" for entry in planned)
        console.print(f"{missing} of {len(planned)} to be made; results in {results}, runs in {out}", soft_wrap=True)
        if what == "tuned" and planned[0].job.seed == 0:
            console.print("This is the tuning; its best trials come after it.", soft_wrap=True)
        return
    notes_of_missing: list[str] = []
    if finished:
        absent = [entry.job.name for entry in planned if entry.result is None]
        notes_of_missing = [f"not made yet: {', '.join(absent)}"] if absent else []
        planned = [entry for entry in planned if entry.result is not None]
        if not planned:
            raise InputError(f"nothing is finished in {results}: leave --finished out.")
    elif there := sum(entry.state == "finished" for entry in planned):
        # Of a checkout these are ours, and whoever wants to measure anew shall not take them for their own.
        line = f"{there} of {len(planned)} are there already, in {results}; another --results measures them again."
        console.print(line, soft_wrap=True)
    found = answer(what, made(planned), tuning)
    notes = [
        *found.notes,
        *notes_of_missing,
        *(f"failed, and in no mean: {name}: {why}" for name, why in failed.items()),
    ]
    for heading, (headings, rows) in found.tables.items():
        print_table(console, terminal_table(heading or found.title, headings, rows))
    for note in notes:
        console.print(note, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"{name}.md", out / f"{name}.png"]
    written[0].write_text(markdown(found.title, found.tables, notes), encoding="utf-8")
    save_plot(found.plot, written[1])
    painted = what in TABLES or what in ("tuned", "best")  # of the others a system has several lines
    samples = samples_picture(found.result, [entry.job for entry in planned], out) if painted else None
    if samples is not None:
        written.append(out / f"{name}-samples.png")
        save_picture(samples, written[-1])
    console.print(", ".join(map(str, written)), soft_wrap=True)
    if failed:
        raise SplitVAEError(f"not finished: {', '.join(failed)}. The others are in the table.")


def _table2(
    console: Any,
    data: str | None,
    out: Path,
    extractor: str,
    weights: Path | None,
    n: int,
    seeds: int,
    device: str | None,
) -> None:
    from splitvae.presets import PRESETS
    from splitvae.reports.plots import save_plot
    from splitvae.reproduce.table2 import images_in_all, open_labelled, table2, table2_plot

    data = data or str(PRESETS["cifar10"].values["data"])
    with progress_bar(console) as bar:
        images = bar.add_task("images", total=images_in_all(open_labelled(data)[0], n))
        distances = bar.add_task("distances", total=None, visible=False)
        result = table2(
            data, extractor, out, n, seeds, weights=weights, device=device,
            advance=lambda count: bar.advance(images, count),
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
