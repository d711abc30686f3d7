"""Published numbers, each with its protocol and its source: ``published.toml``, checked as it is read.

What stands in tables 1 to 4 of Split-VAE (arXiv 2202.02738), in the papers and repositories those rows come from, and
in those of their peers. Numbers of different protocols are no ranking: every number carries its own.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

from splitvae.errors import InputError, nearest

FILE = "published.toml"
TABLES = {1: "mnist", 2: "cifar10", 3: "cifar10", 4: "celeba"}  # of Split-VAE's paper, and their data
ALLOWED: dict[str, tuple[Any, ...]] = {
    "table": tuple(TABLES),
    "data": ("mnist", "fashion-mnist", "cifar10", "celeba"),
    "metric": ("FID",),
    "source_of_samples": (
        "REC", "normal", "gmm", "second-stage",  # as in the paper's tables, and reconstructions
        "one-gaussian", "geometric", "learned-prior",  # other systems'
        "mix",  # table 2: of all classes
        "unstated",
    ),
    "output": ("x_hat", "x1", "x2", "mix"),
    "status": ("verified", "recalled"),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A number as somebody published it.

    Attributes:
        system: a key of the registry's ``[systems]``: "svae" is SplitVAE, "rae-gp", "2s-vae" …; "data" = real images.
        data: the preset's name.
        source_of_samples: where the latents come from: "normal", "gmm", "second-stage" …; "REC" = reconstructions.
        value: of the metric.
        protocol: extractor, images on both sides, and what the density was fitted on, as far as known.
        source: where the number stands.
        status: "verified" = read there, which does not make it right; "recalled" = not to be cited as fact.
        metric: lower is better for FID.
        output: of a model with components: "x_hat", "x1", "x2", "mix"; None = one output, or the source names none.
        table: 1 … 4, of Split-VAE's paper; None = printed elsewhere.
        note: errors and doubts.
    """

    system: str
    data: str
    source_of_samples: str
    value: float
    protocol: str
    source: str
    status: str
    metric: str = "FID"
    output: str | None = None
    table: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class PublishedParameters:
    """A figure of the column "params" of tables 1, 3 and 4.

    Attributes:
        table: of Split-VAE's paper.
        system: as in ``Published``.
        value: parameters, as printed.
        counts: what the figure counts, of which network.
        note: errors, and what the code that was published has instead.
    """

    table: int
    system: str
    value: int
    counts: str
    note: str | None = None


@dataclass(frozen=True)
class Registry:
    """Everything that ``published.toml`` holds, in its order."""

    numbers: tuple[Published, ...]
    parameters: tuple[PublishedParameters, ...]


@cache
def registry() -> Registry:
    """The registry that comes with the package."""
    return read_registry(files("splitvae.reproduce").joinpath(FILE).read_text(encoding="utf-8"))


def published_numbers() -> list[Published]:
    """All published numbers, in the registry's order."""
    return list(registry().numbers)


def find(data: str, system: str, source_of_samples: str, output: str | None = None) -> Published | None:
    """The number to print beside one of ours: what Split-VAE's tables print, else a verified one, else a recalled one.

    Args:
        data: the preset's name.
        system: as in ``Published``.
        source_of_samples: as in ``Published``.
        output: of a model with components; None = the first that the registry has. "x_hat" is also what is meant where
            a source names no output.

    Returns:
        The first such number; None = nobody published one that we know.

    Examples:
        >>> find("celeba", "svae", "normal", output="x2").value
        45.7
        >>> find("fashion-mnist", "svae", "normal") is None
        True
    """
    outputs = {None: (None, *ALLOWED["output"]), "x_hat": ("x_hat", None)}.get(output, (output,))
    found = [
        number
        for number in registry().numbers
        if (number.data, number.system, number.source_of_samples) == (data, system, source_of_samples)
        and number.output in outputs
    ]
    return min(found, key=lambda number: (number.table is None, number.status != "verified"), default=None)


def published_parameters(table: int, system: str) -> PublishedParameters | None:
    """The figure that a table's column "params" prints for a system; None = it has no such row."""
    rows = registry().parameters
    return next((row for row in rows if (row.table, row.system) == (table, system)), None)


def read_registry(text: str) -> Registry:
    """Read and check the text of a registry.

    Args:
        text: TOML: ``[protocols]`` and ``[systems]``, key → one line; ``[[number]]``, the fields of ``Published`` with
            a key of ``[protocols]`` as ``protocol``; ``[[parameters]]``, those of ``PublishedParameters`` with a list
            ``systems``.

    Raises:
        InputError: no TOML, a key that is unknown or missing, a value that is not allowed, or a number given twice.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{FILE} is not TOML: {error}.") from None
    sections = ("protocols", "systems", "number", "parameters")
    _check_keys("the file", content, sections, sections)
    protocols, systems = content["protocols"], content["systems"]

    numbers = []
    for i, entry in enumerate(content["number"], 1):
        name = f"number {i} ({entry.get('system')}, {entry.get('data')})"
        _check_entry(name, entry, Published)
        _check_choice(name, "system", entry["system"], systems)
        _check_choice(name, "protocol", entry["protocol"], protocols)
        if TABLES.get(entry.get("table"), entry["data"]) != entry["data"]:
            raise InputError(f"{FILE}: {name} says table {entry['table']}, which is about {TABLES[entry['table']]}.")
        numbers.append(Published(**entry | {"value": float(entry["value"]), "protocol": protocols[entry["protocol"]]}))

    parameters = []
    for i, entry in enumerate(content["parameters"], 1):
        name = f"parameters {i} (table {entry.get('table')})"
        _check_keys(name, entry, entry, ["systems"])
        rest = dict(entry)
        for system in rest.pop("systems", ()):
            _check_choice(name, "system", system, systems)
            row = rest | {"system": system}
            _check_entry(name, row, PublishedParameters)
            parameters.append(PublishedParameters(**row))

    # The same number may stand in several sources, and once in each.
    _check_unique((n.system, n.data, n.metric, n.source_of_samples, n.output, n.source) for n in numbers)
    _check_unique((p.table, p.system) for p in parameters)
    return Registry(tuple(numbers), tuple(parameters))


def _check_entry(name: str, entry: dict[str, Any], kind: type) -> None:
    """Its keys are the fields of the dataclass, its choices are allowed, its value is a number, and texts have text."""
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    _check_keys(name, entry, [field.name for field in fields(kind)], needed)
    for key, value in entry.items():
        if key in ALLOWED:
            _check_choice(name, key, value, ALLOWED[key])
        elif key == "value":
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"{FILE}: {name} has value = {value!r}; it needs a number above 0.")
        elif not (isinstance(value, str) and value.strip()):
            raise InputError(f"{FILE}: {name} has {key} = {value!r}; it needs text.")


def _check_keys(name: str, entry: dict[str, Any], known: Iterable[str], needed: Iterable[str]) -> None:
    for key in entry.keys() - set(known):
        raise InputError(f"{FILE}: {name} has the unknown key '{key}'.{nearest(key, known)}")
    if missing := sorted(set(needed) - entry.keys()):
        raise InputError(f"{FILE}: {name} lacks {', '.join(missing)}.")


def _check_choice(name: str, key: str, value: Any, allowed: Iterable[Any]) -> None:
    if value not in list(allowed):
        raise InputError(f"{FILE}: {name} has {key} = {value!r}.{nearest(str(value), map(str, allowed))}")


def _check_unique(keys: Iterable[tuple[Any, ...]]) -> None:
    for key, times in Counter(keys).items():
        if times > 1:
            raise InputError(f"{FILE} has {key} {times} times; keep one.")
