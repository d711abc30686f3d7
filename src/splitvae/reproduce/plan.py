"""What of some jobs is there, and making what is missing: shared by the tables and the claims."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from splitvae.errors import InputError, SplitVAEError
from splitvae.evaluation.extractors import check_extractor
from splitvae.reproduce.results import Job, find_result, make_result, other_recipe, train_job
from splitvae.run import Run, open_data

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
    precision: str = "auto",
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Make what is missing; several processes may be at it, each then makes what no other does, and has all at the end.

    Args:
        planned: see ``plan``, whose ``runs``, ``results`` and ``extractor`` are meant.
        data: where the data is; None = the presets' source on the hub.
        weights: a file with the extractor's weights.
        device: of densities and features; None = the GPU if there is one.
        say: called with lines for people.
        progress: called with the images whose features are done, and their total.
        quiet: whether training prints nothing.
        precision: of training, see ``TrainConfig``.

    Returns:
        all results, those that were there first; and the jobs that failed on the way (one diverged, say): name → why.

    Raises:
        InputError: a run directory with another recipe, data that cannot be read, or data or weights that are not
            those of the results that are there.
        SplitVAEError: everything failed.
    """
    from splitvae.device import pick_device
    from splitvae.evaluation.extractors import get_extractor

    for entry in planned:  # before hours are spent on others
        if entry.state == "run of another recipe":
            train_job(entry.job, data, runs, say, quiet, precision)
    finished, made = [entry.result for entry in planned if entry.result is not None], list[dict[str, Any]]()
    one_protocol(finished)
    missing = [entry for entry in planned if entry.result is None]
    network = get_extractor(extractor, weights, pick_device(device)) if missing or weights is not None else None
    if finished and network is not None:
        _refuse_other(finished[0], "extractor", weights or extractor, "weights_sha256", network.weights_sha256)
    if finished and data is not None:
        found = open_data(replace(planned[0].job.config, data=data)).meta["content_hash"]
        _refuse_other(finished[0], "source", data, "data_sha256", found)
    failed = dict[str, str]()
    for job in _one_process_each([entry.job for entry in missing], runs, say):
        assert network is not None
        try:
            made.append(
                find_result(job, results, extractor)  # another process made it meanwhile
                or make_result(job, data, runs, results, network, say, progress, device, quiet, precision)
            )
            one_protocol([*finished, made[-1]])
        except SplitVAEError as error:
            if type(error) is not SplitVAEError:  # wrong input stops everything, and so does an interruption
                raise
            say(f"{job.name} failed: {error}")
            failed[job.name] = str(error)
    if failed and not finished and not made:
        name, why = next(iter(failed.items()))
        raise SplitVAEError(f"nothing could be finished; the first, {name}: {why}")
    return finished + made, failed


def _one_process_each(jobs: list[Job], runs: Path, say: Callable[[str], Any]) -> Iterator[Job]:
    """The jobs, each held against other processes while the caller is at it; those that another holds wait till last.

    The operating system lets go of a lock when its process ends, however it ends.
    """
    others = list[Job]()
    for turn, wait in ((jobs, False), (others, True)):
        for job in turn:
            (runs / ".locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(runs / ".locks" / job.run_name, blocking=wait)
            try:
                lock.acquire()
            except Timeout:
                say(f"{job.name}: another process is at it")
                others.append(job)
                continue
            try:
                yield job
            finally:
                lock.release()


def _refuse_other(result: dict[str, Any], what: str, named: str | Path, key: str, found: str) -> None:
    """Refuse data or weights that are not a result's, before hours are spent: they could not stand in one table."""
    if found != result["card"][key]:
        raise InputError(
            f"{named} holds something else than the results that are there were measured with ({result['name']} and "
            f"others: {result['card'][what]}, {result['card'][key][:8]}, not {found[:8]}); choose another --results."
        )


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
