"""The scores that `splitvae info` tells of small presets are those of the committed runs."""

from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from splitvae.files import read_json
from splitvae.presets.systems import DATA_SETS, SYSTEMS, preset_name
from splitvae.reproduce.expected import FILE, expected_line, expected_scores
from splitvae.reproduce.tables import systems_of, table_about

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "src/splitvae/reproduce" / FILE


def test_expected_scores_are_those_of_the_committed_runs():
    found = expected_scores(ROOT / "docs/results/runs")
    assert read_json(KEPT, "scores") == found, f"run: python -m splitvae.reproduce.expected docs/results/runs ({KEPT})"


@pytest.mark.parametrize("data", DATA_SETS)
def test_every_small_preset_of_the_tables_has_one(data: str):
    measured = data != "fashion-mnist"
    for system in systems_of(table_about(data), "small") if measured else SYSTEMS:
        assert (expected_line(preset_name(data, system, small=True)) is not None) == measured
        assert expected_line(preset_name(data, system)) is None  # the paper's size; what was published is shown there


def test_a_run_gone_astray_is_told_by_its_values():
    line = expected_line("mnist-vae-small")
    assert line is not None
    assert " 127.60, 1.01, 1.24 of x̂ from a mixture of 20 " in line


def test_the_scores_ship_with_the_package():
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert f"splitvae/reproduce/{FILE}" in shipped
