"""What of some jobs is there, and making what is missing: shared by the tables and the claims."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from splitvae.errors import InputError, SplitVAEError
from splitvae.evaluation.extractors import check_extractor
from splitvae.reproduce.results import Job, find_result, make_result, other_recipe, train_job
from splitvae.run import Run

if TYPE_CHECKING:
    import torch

Scale = Literal["small", "paper"]
IMAGES = {"small": 5_000, "paper": 10_000}  # on either side of a distance


@dataclass(frozen=True)
class Planned:
    """A job and what there is of it.

    Attributes:
        job: what is to be made.
        state: "finished"; without a result of this recipe: "trained", "interrupted", "missing", or "run of another
            recipe", which is in the way.
        result: the JSON's content where it is finished.
    """

    job: Job
    state: str
    result: dict[str, Any] | None = None


def plan(jobs: list[Job], runs: Path, results: Path, extractor: str) -> list[Planned]:
    """Look for each job's result, or else for its run.

    Args:
        jobs: in the order in which they are to be made.
        runs, results: folders of run directories and of results.
        extractor: name of the features' network.

    Raises:
        InputError: an unknown extractor, a file in the place of a folder, or a damaged result.
    """
    check_extractor(extractor)
    for folder, option in ((runs, "--out"), (results, "--results")):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another {option}.")
    planned = []
    for job in jobs:
        result = find_result(job, results, extractor)
        planned.append(Planned(job, _state(job, runs, result), result))
    return planned


def _state(job: Job, runs: Path, result: dict[str, Any] | None) -> str:
    if result is not None:
        return "finished"
    folder = runs / job.run_name
    if not (folder / "config.json").exists():
        return "missing"
    run = Run.open(folder)
    if other_recipe(job, run) is not None:
        return "run of another recipe"
    return "trained" if run.finished else "interrupted"


def carry_out(
    planned: list[Planned],
    runs: Path,
    results: Path,
    extractor: str,
    data: str | None = None,
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    say: Callable[[str], Any] = lambda line: None,
    progress: Callable[[int, int], Any] | None = None,
    quiet: bool = True,
) -> list[dict[str, Any]]:
    """Make what is missing; returns all results, those that were there first.

    Args:
        planned: see ``plan``, whose ``runs``, ``results`` and ``extractor`` are meant.
        data: where the data is; None = the presets' source on the hub.
        weights: a file with the extractor's weights.
        device: of densities and features; None = the GPU if there is one.
        say: called with lines for people.
        progress: called with the images whose features are done, and their total.
        quiet: whether training prints nothing.

    Raises:
        InputError: a run directory with another recipe, or data that cannot be read.
        SplitVAEError: some jobs failed on the way, which are named at the end; the others are finished.
    """
    from splitvae.device import pick_device
    from splitvae.evaluation.extractors import get_extractor

    for entry in planned:  # before hours are spent on others
        if entry.state == "run of another recipe":
            train_job(entry.job, data, runs, say, quiet)
    finished, made = [entry.result for entry in planned if entry.result is not None], list[dict[str, Any]]()
    one_protocol(finished)
    network, failed = None, []
    for entry in planned:
        if entry.result is not None:
            continue
        network = network or get_extractor(extractor, weights, pick_device(device))
        try:
            made.append(make_result(entry.job, data, runs, results, network, say, progress, device, quiet))
            one_protocol([*finished, made[-1]])
        except SplitVAEError as error:
            if type(error) is not SplitVAEError:  # wrong input stops everything, and so does an interruption
                raise
            say(f"{entry.job.name} failed: {error}")
            failed.append(entry.job.name)
    if failed:
        raise SplitVAEError(f"not finished: {', '.join(failed)}. What was finished is kept in {results}.")
    return finished + made


def one_protocol(results: list[dict[str, Any]]) -> None:
    """Refuse results that may not stand in one table.

    Raises:
        InputError: data, extractor or counts differ.
    """
    signatures = {result["card"]["signature"] for result in results}
    if len(signatures) > 1:
        raise InputError(
            f"the results were measured under {len(signatures)} protocols (data, extractor or counts differ); keep "
            "those of one in --results."
        )
