"""Promises about the learning rate: each schedule against a transcription, and Plateau against Keras and torch."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvae.training.schedule import Plateau, learning_rate


def recipe(**changes):
    values = {"lr": 1e-3, "lr_schedule": "constant", "lr_halve_every": 3, "warmup_steps": 0, "epochs": 10}
    return SimpleNamespace(**(values | changes))


def factors(plateau, losses):
    """The factor after each step."""
    found = []
    for step, loss in enumerate(losses, start=1):
        plateau.update(torch.tensor(loss, dtype=torch.float64), step)
        found.append(plateau.factor)
    return found


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_constant_and_cosine_are_what_they_were(warmup):
    lr, total = 3e-3, 10 * 11
    for step in range(total):
        rise = 1.0 if warmup == 0 or step + 1 > warmup else (step + 1) / warmup
        fall = 0.5 * (1 + math.cos(math.pi * step / total))
        options = {"lr": lr, "warmup_steps": warmup}
        assert learning_rate(recipe(lr_schedule="constant", **options), step, 11) == lr * rise
        assert learning_rate(recipe(lr_schedule="cosine", **options), step, 11) == lr * rise * fall


def test_cosine_starts_at_lr_and_ends_near_zero():
    config = recipe(lr_schedule="cosine")
    assert learning_rate(config, 0, 100) == 1e-3
    assert learning_rate(config, 500, 100) == pytest.approx(5e-4)
    assert 0 < learning_rate(config, 999, 100) < 1e-8


def test_halving_halves_at_the_start_of_every_so_many_epochs():
    # 10 epochs of 2 steps, halved every 3 epochs: at steps 6, 12 and 18.
    rates = [learning_rate(recipe(lr=0.8, lr_schedule="halving"), step, 2) for step in range(20)]
    assert rates == [0.8] * 6 + [0.4] * 6 + [0.2] * 6 + [0.1] * 2


@pytest.mark.parametrize("schedule", ["constant", "cosine", "halving", "plateau"])
def test_warm_up_rises_linearly_to_the_schedule(schedule):
    warm, cold = recipe(lr_schedule=schedule, warmup_steps=4), recipe(lr_schedule=schedule)
    shares = [learning_rate(warm, step, 5) / learning_rate(cold, step, 5) for step in range(6)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_factor_of_a_plateau_multiplies_the_rate():
    config = recipe(lr=0.8, lr_schedule="plateau", warmup_steps=2)
    assert [learning_rate(config, step, 5, factor=0.25) for step in range(3)] == [0.1, 0.2, 0.2]


# Keras 2.3.1, ReduceLROnPlateau.on_epoch_end, by hand: better = loss < best − min_delta; else wait += 1, and at
# wait ≥ patience the rate is reduced and wait starts again. Options, and for each epoch (loss, factor after it).
KERAS = {
    "any": (
        {"patience": 2, "min_delta": 0.1},
        [
            (5.0, 1.0),  # better than infinity: best 5
            (4.0, 1.0),  # best 4
            (3.95, 1.0),  # .05 is not enough: wait 1
            (3.92, 0.5),  # wait 2: reduced; best stays 4
            (3.91, 0.5),  # wait 1 again
            (3.80, 0.5),  # best 3.8, wait 0
            (4.50, 0.5),  # wait 1
            (3.70001, 0.25),  # .09999 is not enough: wait 2: reduced
            (math.nan, 0.25),  # NaN is not better: wait 1
            (3.60, 0.25),  # best 3.6, wait 0
            (9.0, 0.25),  # wait 1
            (9.0, 0.125),  # wait 2: reduced
        ],
    ),
    # The authors' settings: a flat loss costs one epoch to be best, then a reduction every 5 epochs.
    "authors'": ({}, [(0.01, 0.5 ** (epoch // 5)) for epoch in range(16)]),
    # A fall of less than 1e-4 per epoch adds up, since best stays where it was: better at every third epoch.
    "slow": ({"patience": 3}, [(0.01 - 4e-5 * epoch, 1.0) for epoch in range(30)]),
    "too slow": ({"patience": 2}, [(0.01 - 4e-5 * epoch, 0.5 ** ((epoch + 1) // 3)) for epoch in range(30)]),
}


@pytest.mark.parametrize("name", KERAS)
def test_plateau_does_what_keras_does(name):
    options, table = KERAS[name]
    assert factors(Plateau(1, **options), [loss for loss, _ in table]) == [factor for _, factor in table]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 6))
def test_plateau_equals_torch_with_one_epoch_less_of_patience(losses, patience):
    losses = [loss / 8 for loss in losses]  # exact, so that falls of just min_delta occur
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.25, threshold_mode="abs", eps=0.0
    )
    expected = []
    for loss in losses:
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert factors(Plateau(1, patience=patience, min_delta=0.25), losses) == expected


def test_plateau_judges_the_mean_loss_of_an_epoch():
    plateau = Plateau(3, patience=1)
    # Epoch means 2, 1, 1: the third is no better, whatever its single steps are, and only its last step tells.
    assert factors(plateau, [2.0, 2.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 3.0]) == [1.0] * 8 + [0.5]
    assert plateau.best == 1.0


def test_scale_brings_a_sum_over_pixels_to_the_authors_mean():
    means = [0.02 - 3e-5 * epoch for epoch in range(40)]
    sums = [1024 * mean for mean in means]
    assert factors(Plateau(1, 1024), sums) == factors(Plateau(1), means) == [1.0] * 40
    means = [0.02 - 1e-5 * epoch for epoch in range(40)]
    sums = [1024 * mean for mean in means]
    found = factors(Plateau(1, 1024), sums)
    assert found == factors(Plateau(1), means)
    assert found[-1] < 1
    assert factors(Plateau(1), sums)[-1] == 1  # unscaled, 1e-4 would mean next to nothing


def test_only_the_last_step_of_an_epoch_reads_the_device():
    nowhere = torch.zeros((), device="meta")  # reading it raises
    plateau = Plateau(3)
    plateau.update(nowhere, 1)
    plateau.update(nowhere, 2)
    with pytest.raises(RuntimeError, match="meta"):
        plateau.update(nowhere, 3)


def test_plateau_keeps_no_graph():
    plateau = Plateau(2)
    plateau.update(torch.ones((), requires_grad=True) * 2, 1)
    assert not plateau._sum.requires_grad


@pytest.mark.parametrize("stops", [{1}, {6}, {7}, {14}, {20, 33, 34, 35}, set(range(1, 70))])
def test_resumed_equals_uninterrupted_bit_for_bit(stops):
    losses = 100 + torch.rand(70, generator=torch.Generator().manual_seed(0))  # 10 epochs of 7 float32 losses
    options = {"scale": 768.0, "patience": 2, "min_delta": 1e-5}
    whole, parts = Plateau(7, **options), Plateau(7, **options)
    for step, loss in enumerate(losses, start=1):
        whole.update(loss, step)
        parts.update(loss, step)
        if step in stops:
            saved = json.loads(json.dumps(parts.state(), allow_nan=False))
            parts = Plateau(7, **options)
            parts.load(saved)
        assert parts.state() == whole.state()
    assert whole.factor < 1
