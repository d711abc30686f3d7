"""Two claims of Split-VAE (arXiv 2202.02738), tested, one fair tuning, and our own recipe.

- "latents": that Split-VAEs "allow to work with a number of latent variables sensibly higher than usual" (sections 1
  and 3): K = 1 and K = 2 at two numbers of latents, everything else equal.
- "components": what the number of Gaussians in the mixture does to each system, fitted on training codes.
- "tuning": the same number of trials for every system, judged on the distance to *training* images, which alone the
  table shows, so that a recipe is frozen before its score on test images is looked at.
- "tuned": each system by its best trial, with the output and the density that were nearest then, over several seeds,
  against test images. They begin at 1, because seed 0 is the one that all of this was chosen by.
- "best": SplitVAE by our own recipe, and every other system with what it can take of it (``taken_from_best``), so that
  what the split gives is told apart from what rate, network and Gaussians give to all. Seeds begin at 1 here too.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from splitvae.errors import InputError, nearest
from splitvae.presets import PRESETS
from splitvae.presets.systems import OWN, SYSTEMS, preset_name
from splitvae.reproduce.plan import Scale, one_protocol
from splitvae.reproduce.results import Job
from splitvae.reproduce.summary import origin_of, spread_of
from splitvae.reproduce.tables import jobs_of as jobs_of_table
from splitvae.reproduce.tables import lead, systems_of, table_about

CLAIMS = ("latents", "components", "tuning", "tuned", "best")
LATENTS = {"mnist": (16, 32), "fashion-mnist": (16, 32), "cifar10": (128, 200), "celeba": (64, 150)}
MIXTURES = (1, 10, 20, 50, 100)
WARMUP = 100  # steps; our recipe's, see "best"
COMPARED = ("latent_dim", "lr", "warmup_steps", "beta", "embedding_weight")  # what tells a system's recipes apart
GAIN = 1.01  # what a changed recipe, or N(0, I), must gain over the recipe as it is, or a fitted density


def jobs_of(
    claim: str,
    data: str,
    scale: Scale = "small",
    only: list[str] | None = None,
    seeds: int = 3,
    n: int | None = None,
    tuning: dict[str, Any] | None = None,
) -> list[Job]:
    """What is to be measured.

    Args:
        claim: one of ``CLAIMS``.
        data: a data set of the tables.
        scale, only, seeds, n: as for a table, but seeds of "tuned" and "best" begin at 1; "latents" is about SplitVAE
            and its K = 1 alone, "best" about all but the paper's SplitVAE unless that is asked for.
        tuning: for "tuned", the summary of "tuning".

    Raises:
        InputError: an unknown claim, data set or system, or no seeds.
    """
    table = table_about(data)
    if claim not in CLAIMS:
        raise InputError(f"'{claim}' is unknown.{nearest(claim, CLAIMS)}")
    if claim == "latents":
        jobs = jobs_of_table(table, scale, ["svae", "vae"], seeds, n)
        return [changed(job, "latent_dim", latent_dim) for latent_dim in LATENTS[data] for job in jobs]
    if claim == "best" and only is None:
        only = ["best", *(system for system in systems_of(table, scale) if system not in OWN)]
    jobs = jobs_of_table(table, scale, only, seeds, n)
    if claim == "best":
        mixtures = (PRESETS[preset_name(data, "best", scale == "small")].densities["gmm"]["n_components"],)
        return [replace(job, seed=job.seed + 1, changes=taken_from_best(job), mixtures=mixtures) for job in jobs]
    if claim == "components":
        return [replace(job, mixtures=MIXTURES) for job in jobs]
    if claim == "tuning":
        return [replace(job, changes=trial, mixtures=_mixtures(job)) for job in jobs for trial in trials(job)]
    if tuning is None:
        raise InputError("tuned is each system by its best trial: pass the summary of a tuning.")
    chosen = {line["system"]: tuple(line["changes"].items()) for line in tuning["lines"] if line["chosen"]}
    return [
        replace(job, seed=job.seed + 1, changes=chosen[job.system], mixtures=_mixtures(job))
        for job in jobs
        if job.system in chosen  # every trial of another one failed
    ]


def trials(job: Job) -> list[tuple[tuple[str, Any], ...]]:
    """Changes to a system's recipe, five for each.

    None; twice the rate, without and with a warm-up; less and more of what regularises it. That is its β or RAE's
    embedding weight, a quarter and four times; of an autoencoder, which has neither, the number of latents, half and
    twice.
    """
    config = job.config
    if config.model == "ae":
        other: list[tuple[str, Any]] = [("latent_dim", config.latent_dim // 2), ("latent_dim", config.latent_dim * 2)]
    else:
        weight = "beta" if config.variational else "embedding_weight"
        other = [(weight, getattr(config, weight) / 4), (weight, getattr(config, weight) * 4)]
    faster = ("lr", 2 * config.lr)
    return [(), (faster,), (faster, ("warmup_steps", WARMUP)), *((change,) for change in other)]


def taken_from_best(job: Job) -> tuple[tuple[str, Any], ...]:
    """What a system can take of our recipe for SplitVAE.

    All take its rate, schedule and warm-up. Those on SplitVAE's own network take RAE's where we do; those on RAE's with
    fewer latents our sizes, which have as many parameters. K = 1, whose β and γ mean the same, takes all. The paper's
    SplitVAE stays as it is.
    """
    if job.system in OWN:
        return ()
    own, best = job.config, replace(job, system="best", changes=()).config
    names = ["lr", "lr_schedule", "warmup_steps"]
    if job.system == "vae":
        names += ["beta", "gamma_init", "batch_norm_momentum"]
    taken = [name for name in names if getattr(own, name) != getattr(best, name)]
    if own.network == "split-vae" != best.network:
        taken += ["network", "base_channels", "latent_dim"]  # the sizes of a recipe go with its network
    elif own.network == best.network and own.latent_dim < best.latent_dim:
        taken += ["base_channels", "latent_dim"]
    return tuple((name, getattr(best, name)) for name in taken)


def _mixtures(job: Job) -> tuple[int, ...]:
    """The preset's number of Gaussians, and the largest."""
    return tuple(sorted({PRESETS[job.preset].densities["gmm"]["n_components"], MIXTURES[-1]}))


def changed(job: Job, field: str, value: Any) -> Job:
    """The job with another value in its recipe; itself where that is the preset's, so that the table's run serves."""
    return job if getattr(job.config, field) == value else replace(job, changes=((field, value),))


def summarize_claim(claim: str, results: list[dict[str, Any]], tuning: dict[str, Any] | None = None) -> dict[str, Any]:
    """Lines of a claim's table, means over seeds.

    Args:
        claim: one of ``CLAIMS``.
        results: of its jobs.
        tuning: for "tuned", the summary of "tuning".

    Returns:
        what ``origin_of`` has, ``claim``, and ``lines``, one for each (system, changes to its recipe) with ``system``,
        ``row``, ``changes``, ``latent_dim``, ``output`` and ``density``, which is N(0, I) where no fitted one is nearer
        (of "tuning" the nearest to training images, of "tuned" those that the tuning found; otherwise x̂, so that
        nobody has more to choose from, and the nearest),
        ``candidates`` (how many were compared for that, if any), ``run`` (name of the first seed's run directory),
        ``seeds`` and ``cells``: name → mean, sd over seeds, values.
        The cells of "tuning" are distances to training images; its ``chosen`` lines are each system's nearest, the
        recipe as it is where no change gains 1 %. "tuned" and "best" have ``lead``, see ``tables.lead``, and
        "best" has ``lead_of_split``, that over K = 1 alone, which differs in nothing else; None = ``lead`` is that.
    """
    one_protocol(results)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        of = {name: result["config"][name] for name in COMPARED}
        groups.setdefault((list(SYSTEMS).index(result["system"]), *of.values()), []).append(result)
    found = {} if tuning is None else {line["system"]: line for line in tuning["lines"] if line["chosen"]}
    lines = [
        _line(claim, sorted(group, key=lambda result: result["seed"]), found.get(group[0]["system"]))
        for _, group in sorted(groups.items())
    ]
    for line in lines:
        own = [other for other in lines if other["system"] == line["system"]]
        # A change must gain something: a system that got stuck in every trial keeps its own recipe.
        line["chosen"] = line is min(own, key=lambda other: other["to_train"] * (GAIN if other["changes"] else 1))
    return origin_of(results, paper=False) | {"claim": claim, "lines": lines} | _leads(claim, lines)


def _line(claim: str, results: list[dict[str, Any]], found: dict[str, Any] | None) -> dict[str, Any]:
    """One recipe of one system over its seeds; ``found``: its line in the tuning, for "tuned"."""
    first = results[0]
    clean = [row for row in first["rows"] if row["protocol"] == "clean"]
    of_recipes = claim in ("tuning", "tuned")
    outputs = list(dict.fromkeys(row["output"] for row in clean)) if of_recipes else ["x_hat"]
    sources = [row["source"] for row in clean if row["output"] == "x_hat"]
    to_train = {
        (output, source): float(np.mean(scores_of(results, output, source, "_train")))
        for output in outputs
        for source in sources
        if source != "REC"
    }
    # Where all are alike, as of a model that is stuck, a fitted density tells more of other seeds.
    output, density = min(to_train, key=lambda pair: to_train[pair] * (GAIN if pair[1] == "normal" else 1))
    if found is not None:
        output, density = found["output"], found["density"]
    to = "_train" if claim == "tuning" else ""
    cells = {source: spread_of(scores_of(results, output, source, to)) for source in sources}
    if claim == "latents":
        cells["inactive"] = spread_of([result["latents"]["inactive_by_mean"] for result in results])
        cells["KL"] = spread_of([result["latents"]["kl"] for result in results])
        cells["mse"] = spread_of([result["training"]["mse"] for result in results])
    return {
        "system": first["system"], "row": SYSTEMS[first["system"]].row, "changes": first["changes"],
        "latent_dim": first["config"]["latent_dim"], "output": output, "density": density,
        "to_train": to_train[output, density], "candidates": len(to_train),
        "run": first["name"], "seeds": [result["seed"] for result in results],
        "cells": cells, "score": scores_of(results, output, density),
        "score_of_x_hat": scores_of(results, "x_hat", density),
    }  # fmt: skip


def _leads(claim: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """How far SplitVAE is ahead of the best other and, with our recipe, of K = 1, unless that is the best other."""
    if claim not in ("tuned", "best"):
        return {"lead": None, "lead_of_split": None}
    own = "best" if claim == "best" else "svae"
    scores = {line["system"]: line["score"] for line in lines}
    x_hat = next((line["score_of_x_hat"] for line in lines if line["system"] == own), None)
    of_all, of_split = lead(scores, x_hat, own), None
    if claim == "best" and of_all is not None and of_all["best_other"] != "vae":
        of_split = lead({system: scores[system] for system in ("best", "vae") if system in scores}, x_hat, own)
    return {"lead": of_all, "lead_of_split": of_split}


def scores_of(results: list[dict[str, Any]], output: str, source: str, to: str = "") -> list[float]:
    """Clean Fréchet distances of one output and source, one for each seed; ``to`` "_train" = to training images."""
    return [
        row["metrics"][f"frechet_distance{to}"]
        for result in results
        for row in result["rows"]
        if (row["protocol"], row["source"], row["output"]) == ("clean", source, output)
    ]
