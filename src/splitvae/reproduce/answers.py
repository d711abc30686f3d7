"""What `splitvae reproduce` can be asked, by name: the jobs that answer it, and their results as a page.

A table about a data set ("table1" …), a claim ("latents" …), or "splits". Table 2 is apart: no model takes part in it.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from splitvae.reproduce.claims import jobs_of as jobs_of_claim
from splitvae.reproduce.claims import summarize_claim
from splitvae.reproduce.plan import Scale
from splitvae.reproduce.render import notes_of, table_plot, table_title, tables_of
from splitvae.reproduce.render_claims import claim_notes, claim_plot, claim_rows
from splitvae.reproduce.results import Job
from splitvae.reproduce.splits import jobs_of as jobs_of_splits
from splitvae.reproduce.splits import split_notes, split_plot, split_rows, summarize_splits
from splitvae.reproduce.tables import TABLES, summarize_table
from splitvae.reproduce.tables import jobs_of as jobs_of_table


@dataclass(frozen=True)
class Answer:
    """Results of jobs, as people read them.

    Attributes:
        result: the summary that everything else is made of.
        title: of the page.
        tables: heading ("" = none) → (headings of columns, rows).
        notes: what a reader must know.
        plot: the picture.
    """

    result: dict[str, Any]
    title: str
    tables: dict[str, tuple[list[str], list[list[str]]]]
    notes: list[str]
    plot: Figure


def jobs_for(
    what: str,
    on: str = "mnist",
    scale: Scale = "small",
    only: list[str] | None = None,
    seeds: int = 3,
    n: int | None = None,
    tuning: dict[str, Any] | None = None,
) -> list[Job]:
    """The jobs of a table, a claim or the splits, in the order in which they are to be made.

    Args:
        what: a key of ``TABLES``, one of ``CLAIMS``, or "splits".
        on: a data set of the tables; a table has its own.
        scale, only, seeds, n, tuning: as for ``tables.jobs_of``, ``claims.jobs_of`` and ``splits.jobs_of``.

    Raises:
        InputError: an unknown name, data set, system or variant, or no seeds.
    """
    if what in TABLES:
        return jobs_of_table(what, scale, only, seeds, n)
    if what == "splits":
        return jobs_of_splits(on, scale, only, seeds, n)
    return jobs_of_claim(what, on, scale, only, seeds, n, tuning)


def answer(what: str, results: list[dict[str, Any]], tuning: dict[str, Any] | None = None) -> Answer:
    """The page of a table, a claim or the splits.

    Args:
        what: as for ``jobs_for``.
        results: of its jobs, at least one.
        tuning: for "tuned", the ``result`` of "tuning".

    Raises:
        InputError: the results were measured under different protocols.
    """
    if what in TABLES:
        result = summarize_table(what, results)
        return Answer(result, table_title(result), tables_of(result), notes_of(result), table_plot(result))
    if what == "splits":
        result = summarize_splits(results)
        tables, notes, plot = {"": split_rows(result)}, split_notes(result), split_plot(result)
    else:
        result = summarize_claim(what, results, tuning)
        tables, notes, plot = {"": claim_rows(result)}, claim_notes(result), claim_plot(result)
    return Answer(result, f"{what}, {result['data']}, {result['scale']}", tables, notes, plot)
