"""The command that measures two sets of images, whoever made them: score."""

from pathlib import Path
from typing import Literal

from splitvae.commands.app import app
from splitvae.errors import InputError


@app.command(help_epilogue="Example: splitvae score photos/ samples/ --extractor efficientnet-lite0 --out score.json")
def score(
    real: str,
    fake: str,
    *,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
    n: int | None = None,
    split: Literal["all", "train", "test"] = "all",
    image_size: int | str | None = None,
    seed: int = 0,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Score one set of images against another: FID or FD, KID, precision, recall, density, coverage, with the protocol.

    Args:
        real: The reference: a folder of images, an .npz, parquet shards, or a hub name.
        fake: What is judged: likewise.
        extractor: inception-v3-compat (its distance is the FID), efficientnet-lite0 and mnist-classifier (work
            offline), clip-…, dinov2-….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        n: Images of each set, chosen by --seed; all without it.
        split: Which images of a source that has splits.
        image_size: Resize both sets to this first; without it they are taken as they are, and must agree.
        seed: Of the choice of images and of the subsets inside the metrics.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        out: A .json for the numbers and their protocol.
    """
    from splitvae.config import parse_size

    size = parse_size(image_size)
    from splitvae.evaluation.extractors import check_extractor

    check_extractor(extractor)
    if out is not None and out.suffix != ".json":
        raise InputError(f"cannot write the score to {out.name}: use a name that ends in .json.")
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from splitvae.device import pick_device
    from splitvae.evaluation.features import get_extractor
    from splitvae.evaluation.score import score as score_sets
    from splitvae.files import write_json
    from splitvae.reports.columns import columns_of, value
    from splitvae.reports.terminal import print_table

    network = get_extractor(extractor, extractor_weights, pick_device(device))
    console = Console(highlight=False, markup=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("features", total=None)
        result = score_sets(real, fake, network, n, split, size, seed, lambda count: bar.advance(task, count))
    protocol = result["protocol"]
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, (heading, digits, text) in columns_of([result["metrics"]], result["distance"]).items():
        table.add_row(heading, value({"mean": result["metrics"]}, name, digits), text)
    floor = result["floor"]
    if floor["frechet_distance"] is not None:
        text = f"the same between two halves of REAL, {floor['images_of_each_half']:,} images each: more bias"
        table.add_row("floor", f"{floor['frechet_distance']:.2f}", text)
    if "classes" in result:
        classes = result["classes"]
        text = f"share of FAKE with a class too many; {classes['total_variation_floor']:.3f} between the halves"
        table.add_row("class shift", f"{classes['total_variation']:.3f}", text)
    print_table(console, table)
    console.print(
        f"{protocol['fake']['images']:,} generated ({fake}) against {protocol['real']['images']:,} real ({real}) "
        f"images; {protocol['extractor']}, {protocol['resize']}, weights {protocol['weights_sha256'][:8]}",
        soft_wrap=True,
    )
    for note in result["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    if out is not None:
        write_json(out, result)
