"""Promises about the published numbers: they are what the paper prints, none is vouched for that nobody read."""

import re
import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import SHARED
from hatchling.builders.wheel import WheelBuilder

from splitvae.errors import InputError
from splitvae.presets import PRESETS
from splitvae.reproduce.published import (
    FILE,
    find,
    published_numbers,
    published_parameters,
    read_registry,
    registry,
)

ROOT = Path(__file__).parents[1]
TEXT = files("splitvae.reproduce").joinpath(FILE).read_text(encoding="utf-8")
PAPER = SHARED / "paper/split-vae.md"

# The paper's tables, copied from its text: model, params, GEN, GMM.
TABLE_1 = """
RAE-GP            22,386,449   22.2             11.5
RAE-L2            22,386,449   22.2             8.7
RAE-SN            22,386,449   19.7             11.7
2S-VAE            9,032,769    21.9             12.6
balanced-2S-VAE   9,032,769    21.8             11.8
SVAE              12,793,667   20.4             7.47
"""
TABLE_3 = """
RAE-GP            30,510,339   83.0             74.2
RAE-L2            30,510,339   80.8             74.2
RAE-SN            30,510,339   84.2             74.2
2S-VAE            27,766,275   76.7             72.9
balanced-2S-VAE   27,766,275   80.2             69.8
SVAE              13,061,143   81.9             69.5
"""
TABLE_4 = """
RAE-GP            30,510,339   116.3            45.3
RAE-L2            30,510,339   51.1             47.9
RAE-SN            30,510,339   44.7             40.9
2S-VAE            27,766,275   60.5             44.4
balanced-2S-VAE   27,766,275   43.6             38.6
SVAE              28,989,363   54.8 49.0 45.7   35.1
"""
ROWS = [
    (table, data, *line.split())
    for table, data, text in ((1, "mnist", TABLE_1), (3, "cifar10", TABLE_3), (4, "celeba", TABLE_4))
    for line in text.strip().splitlines()
]

# Recalled from Ghosh et al., table 1 (N and mixture), and from Dai & Wipf (MNIST, Fashion-MNIST, CIFAR-10, CelebA).
RECALLED_RAE = {
    "mnist": {"rae-gp": (22.21, 11.54), "rae-l2": (22.22, 8.69), "rae-sn": (19.67, 11.74)},
    "cifar10": {"rae-gp": (83.05, 76.33), "rae-l2": (80.80, 74.16), "rae-sn": (84.25, 75.30)},
    "celeba": {"rae-gp": (116.30, 45.63), "rae-l2": (51.13, 47.97), "rae-sn": (44.74, 40.95)},
}
RECALLED_DAI_WIPF = {
    ("vae-learned-gamma", "normal"): (54.5, 60.0, 76.7, 60.5),
    ("2s-vae-infogan", "second-stage"): (12.6, 29.3, 72.9, 44.4),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"table-{row[0]}-{row[2]}")
def test_every_row_of_the_papers_tables_is_found_as_printed(row):
    table, data, model, params, *gen, post = row
    system = model.lower()
    outputs = [None] if len(gen) == 1 else ["x_hat", "x1", "x2"]
    for output, value in zip(outputs, gen, strict=True):
        number = find(data, system, "normal", output)
        assert (number.value, number.table, number.status) == (float(value), table, "verified")
    number = find(data, system, "second-stage" if "2s" in system else "gmm", "mix" if len(gen) > 1 else None)
    assert (number.value, number.table, number.status) == (float(post), table, "verified")
    assert published_parameters(table, system).value == int(params.replace(",", ""))
    assert published_parameters(table, system).counts


def test_nothing_else_claims_to_stand_in_the_papers_tables():
    assert Counter(number.table for number in published_numbers() if number.table) == {1: 12, 2: 1, 3: 12, 4: 14}
    assert len(registry().parameters) == len(ROWS)
    assert (find("cifar10", "data", "mix").value, find("cifar10", "data", "mix").table) == (5.3, 2)


@pytest.mark.skipif(not PAPER.is_file(), reason="the paper's text is not on this machine")
def test_the_copied_tables_are_the_papers_own():
    text = PAPER.read_text()
    printed = re.findall(r"^.*(?:RAE|VAE).*\t([\d,]{9,10})\t([\d. ]+)\t([\d.]+)$", text, re.MULTILINE)
    assert printed == [(params, " ".join(gen), post) for _, _, _, params, *gen, post in ROWS]


def test_what_was_only_recalled_is_not_called_verified():
    by_source = {(n.data, n.system, n.source_of_samples, n.source.split(" (")[0]): n for n in published_numbers()}
    for data, systems in RECALLED_RAE.items():
        for system, values in systems.items():
            for source_of_samples, value in zip(("normal", "gmm"), values, strict=True):
                number = by_source[data, system, source_of_samples, "Ghosh et al."]
                assert (number.value, number.status) == (value, "recalled")
    for (system, source_of_samples), values in RECALLED_DAI_WIPF.items():
        for data, value in zip(("mnist", "fashion-mnist", "cifar10", "celeba"), values, strict=True):
            number = by_source[data, system, source_of_samples, "Dai & Wipf"]
            assert (number.value, number.status) == (value, "recalled")


def test_the_paper_comes_before_what_was_verified_and_that_before_what_was_recalled():
    sources = [
        n.source for n in published_numbers() if (n.data, n.system, n.source_of_samples) == ("cifar10", "rae-sn", "gmm")
    ]
    assert len(sources) == 3
    assert find("cifar10", "rae-sn", "gmm").table == 3
    assert find("mnist", "vae-rae-net", "gmm").status == "verified"
    assert find("fashion-mnist", "2s-vae-infogan", "second-stage").status == "recalled"
    assert find("fashion-mnist", "svae", "gmm") is None
    assert published_parameters(2, "svae") is None


def test_an_output_that_no_source_names_counts_as_x_hat_and_as_no_other():
    assert find("mnist", "svae", "gmm", "x_hat").value == 7.47
    assert find("mnist", "svae", "gmm", "x1") is None
    assert find("celeba", "svae", "gmm", "x_hat") is None  # 35.1 is the mix's


def test_every_number_says_how_it_was_measured_where_it_stands_and_whether_it_was_read():
    for number in published_numbers():
        assert number.protocol.strip()
        assert number.source.strip()
        assert number.status in ("verified", "recalled")
    assert {number.data for number in published_numbers()} <= set(PRESETS)
    content = tomllib.loads(TEXT)
    for section, key in (("protocols", "protocol"), ("systems", "system")):
        assert content[section].keys() == {number[key] for number in content["number"]}  # none is left over


def test_the_papers_errors_are_told():
    assert "76.3" in find("cifar10", "rae-gp", "gmm").note
    assert "75.3" in find("cifar10", "rae-sn", "gmm").note
    assert "45.63" in find("celeba", "rae-gp", "gmm").note
    assert "unknown" in find("mnist", "2s-vae", "normal").note
    for system in ("rae-gp", "rae-l2", "rae-sn", "2s-vae", "balanced-2s-vae"):
        assert "copy" in published_parameters(4, system).counts
    assert published_parameters(1, "svae").counts.startswith("trainable only")


SMALL = """
[protocols]
rae = "an extractor"

[systems]
rae-gp = "an autoencoder"

[[number]]
system = "rae-gp"
data = "mnist"
source_of_samples = "normal"
value = 22.2
table = 1
protocol = "rae"
source = "a paper"
status = "verified"

[[parameters]]
table = 1
systems = ["rae-gp"]
value = 22_386_449
counts = "all"
"""
NUMBER = SMALL[SMALL.index("[[number]]") : SMALL.index("[[parameters]]")]


def test_a_small_registry_is_read():
    (number,), (parameters,) = read_registry(SMALL).numbers, read_registry(SMALL).parameters
    assert (number.value, number.protocol, number.metric, number.output) == (22.2, "an extractor", "FID", None)
    assert (parameters.system, parameters.value, parameters.note) == ("rae-gp", 22_386_449, None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('status = "verified"', 'status = "certain"', "status = 'certain'"),
        ('system = "rae-gp"', 'system = "rae-pg"', "Did you mean 'rae-gp'"),
        ('data = "mnist"', 'data = "cifar10"', "table 1, which is about mnist"),
        ('protocol = "rae"', 'protocol = "other"', "protocol = 'other'"),
        ('source_of_samples = "normal"', 'source_of_samples = "norm"', "Did you mean 'normal'"),
        ("value = 22.2", 'value = "22.2"', "value = '22.2'"),
        ("value = 22.2", "value = nan", "value = nan"),
        ("value = 22.2", "", "lacks value"),
        ("value = 22.2", "value = 22.2\nfid = 22.2", "unknown key 'fid'"),
        ('source = "a paper"', 'source = " "', "it needs text"),
        ("[[number]]", "[[number]", "is not TOML"),
        (NUMBER, NUMBER + NUMBER, "2 times"),
        (NUMBER, NUMBER + NUMBER.replace("22.2", "22.3"), "2 times"),
        ('["rae-gp"]', '["rae-gp", "rae-gp"]', "2 times"),
        ('systems = ["rae-gp"]', "", "lacks systems"),
        ('["rae-gp"]', '["rae-pg"]', "Did you mean 'rae-gp'"),
        ("value = 22_386_449", "value = -1", "value = -1"),
        ('counts = "all"', 'count = "all"', "unknown key 'count'"),
        ("[protocols]", "[protocol]", "unknown key 'protocol'"),
    ],
)
def test_a_malformed_entry_is_refused(old, new, told):
    assert old in SMALL
    with pytest.raises(InputError, match=re.escape(told)):
        read_registry(SMALL.replace(old, new, 1))


def test_the_registry_ships_with_the_package():
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert f"splitvae/reproduce/{FILE}" in shipped
