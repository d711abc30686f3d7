"""Promises about training: the same weights however it is cut, nothing lost, errors that say what helps."""

import errno
import json
import os
import shutil
import signal
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from conftest import TINY, pixels
from torch import nn

from splitvae import InputError, Run, SplitVAEError, register_network, train
from splitvae.config import ELSEWHERE
from splitvae.errors import Interrupted
from splitvae.models.vae import SplitVAE
from splitvae.presets import PRESETS, resolve
from splitvae.training import checkpoint, loop, precision
from splitvae.training.ema import update_average
from splitvae.training.watch import Watch

QUICK = TINY | {"batch_size": 8, "precision": "fp32", "quiet": True, "log_every": 2, "device": "cpu"}


def weights(run: Run, name: str = "model") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.path / name / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Cut(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def cut_at(step: int, patch: pytest.MonkeyPatch) -> None:
    def batch(self: object, epoch: int, index: int, part: slice = slice(None)) -> torch.Tensor:
        if epoch * self.steps_per_epoch + index == step:  # type: ignore[attr-defined]
            raise Cut
        return real(self, epoch, index, part)

    real = loop.ImageLoader.batch
    patch.setattr(loop.ImageLoader, "batch", batch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9, "lr_schedule": "constant", "warmup_steps": 3, "flip": True},
        {"accumulate": 2, "gamma_rule": "learned", "gamma_init": 1.0, "clip_norm": 50.0, "num_components": 3},
    ],
)
def test_a_run_that_was_cut_and_resumed_equals_one_that_was_not(changes, npz: Path, tmp_path: Path, monkeypatch):
    options = QUICK | {"data": str(npz), "epochs": 2, "checkpoint_every": 3} | changes
    whole = train(out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(5, patch)
        train(out=tmp_path / "cut", **options)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(7, patch)
        train(resume=tmp_path / "cut")
    resumed = train(resume=tmp_path / "cut")
    assert same(weights(whole), weights(resumed))
    timing = {"sec_per_step", "inactive"}
    logs = [[{k: v for k, v in line.items() if k not in timing} for line in run.log()] for run in (whole, resumed)]
    assert [line["step"] for line in logs[1]] == [2, 4, 6, 8, 10, 12]
    assert logs[0][-1] == logs[1][-1]


def test_micro_batches_see_the_same_images_and_noise(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = SplitVAE.forward
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self: SplitVAE, x: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        if torch.is_grad_enabled():
            seen.append((x.clone(), noise.clone()))
        return real(self, x, noise)

    monkeypatch.setattr(SplitVAE, "forward", forward)
    runs = []
    for parts in (1, 2, 4):
        seen.clear()
        train(out=tmp_path / str(parts), data=str(npz), epochs=1, **(QUICK | {"accumulate": parts}))
        assert len(seen) == 6 * parts
        runs.append([torch.cat([pair[i] for pair in seen]) for i in (0, 1)])
    assert all(torch.equal(runs[0][i], other[i]) for other in runs[1:] for i in (0, 1))


def test_more_epochs_may_be_asked_for_and_a_finished_run_says_so(npz: Path, tmp_path: Path, capsys):
    options = QUICK | {"data": str(npz), "lr_schedule": "constant"}
    train(out=tmp_path / "run", epochs=1, **options)
    before = weights(Run(tmp_path / "run"))
    train(resume=tmp_path / "run", quiet=False)
    assert "is finished: 1 epochs" in capsys.readouterr().out
    assert same(before, weights(Run(tmp_path / "run")))
    longer = train(resume=tmp_path / "run", epochs=2, quiet=True)
    whole = train(out=tmp_path / "whole", epochs=2, **options)
    assert same(weights(longer), weights(whole))
    assert longer.config.epochs == 2


def test_resuming_before_the_first_checkpoint_starts_afresh(npz: Path, tmp_path: Path, monkeypatch):
    options = QUICK | {"data": str(npz), "epochs": 1}
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(2, patch)
        train(out=tmp_path / "cut", **options)
    assert not checkpoint.saved_states(tmp_path / "cut" / "state")
    whole = train(out=tmp_path / "whole", **options)
    assert same(weights(train(resume=tmp_path / "cut")), weights(whole))


def test_the_last_two_states_are_kept_and_a_damaged_one_falls_back(npz: Path, tmp_path: Path):
    options = QUICK | {"data": str(npz), "epochs": 1, "checkpoint_every": 2}
    run = train(out=tmp_path / "run", **options)
    states = checkpoint.saved_states(run.path / "state")
    assert [path.name for path in states] == ["step-000000004", "step-000000006"]
    before = weights(run)
    (states[1] / "state.safetensors").write_bytes(b"cut off")
    assert same(before, weights(train(resume=run.path)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_leave_with_their_status(number, npz: Path, tmp_path: Path, monkeypatch):
    options = QUICK | {"data": str(npz), "epochs": 2}
    real = SplitVAE.forward
    calls = []

    def forward(self: SplitVAE, *arguments: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training and torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 4:
                os.kill(os.getpid(), number)
        return real(self, *arguments)

    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match="stopped at step 4 of 12, and saved") as caught,
    ):
        patch.setattr(SplitVAE, "forward", forward)
        train(out=tmp_path / "run", **options)
    assert caught.value.exit_status == 128 + number
    whole = train(out=tmp_path / "whole", **options)
    assert same(weights(train(resume=tmp_path / "run")), weights(whole))


@pytest.mark.parametrize(
    ("every", "helps"),
    [
        (3, r"Go on from step 3 with a smaller rate: .*--resume .*--lr 0\.0001"),
        (2, r"Remove .*step-000000004, which no rate mends; then go on from step 2 with .*--lr 0\.0001"),
        (4, r"No state was saved before; train anew with .*--lr 0\.0001"),  # none but that of the step itself
        (0, r"No state was saved before; train anew with .*--lr 0\.0001"),
    ],
)
def test_a_nan_stops_and_says_which_term_and_what_there_is_to_go_on_from(
    every: int, helps: str, npz: Path, tmp_path: Path, monkeypatch
):
    options = QUICK | {"data": str(npz), "epochs": 2, "checkpoint_every": every}
    real = SplitVAE.encode

    def encode(self: SplitVAE, x: torch.Tensor) -> object:
        posterior = real(self, x)
        if self.training and torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 5:
                posterior.mean.data[0] = float("nan")
        return posterior

    calls: list[int] = []
    diverged = pytest.raises(SplitVAEError, match=rf"diverged at step 4: .*kl nan.*{helps}")
    with monkeypatch.context() as patch, diverged as caught:
        patch.setattr(SplitVAE, "encode", encode)
        train(out=tmp_path / "run", **options)
    assert caught.value.exit_status == 1
    whole = train(out=tmp_path / "whole", **options)
    assert same(weights(train(resume=tmp_path / "run")), weights(whole))


def test_a_full_disk_keeps_the_state_that_was_there(npz: Path, tmp_path: Path, monkeypatch):
    options = QUICK | {"data": str(npz), "epochs": 1, "checkpoint_every": 2}
    real = os.replace

    def replace(source: object, target: object) -> None:
        if "step-000000004" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(SplitVAEError, match="No space left on device"):
        patch.setattr(os, "replace", replace)
        train(out=tmp_path / "run", **options)
    assert [path.name for path in checkpoint.saved_states(tmp_path / "run" / "state")] == ["step-000000002"]
    assert not [path for path in (tmp_path / "run" / "state").iterdir() if path.name.startswith(".")]
    whole = train(out=tmp_path / "whole", **options)
    assert same(weights(train(resume=tmp_path / "run")), weights(whole))


def test_existing_directories_are_never_lost(npz: Path, tmp_path: Path):
    options = QUICK | {"data": str(npz), "epochs": 1}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists already"):
        train(out=tmp_path / "mine", **options)
    with pytest.raises(InputError, match="holds no run"):
        train(out=tmp_path / "mine", overwrite=True, **options)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    run = train(out=tmp_path / "run", **options)
    (run.path / "samples" / "old.png").touch()
    with pytest.raises(InputError, match="exists already; choose another --out, resume it"):
        train(out=run.path, **options)
    train(out=run.path, overwrite=True, **options)
    assert not (run.path / "samples" / "old.png").exists()
    with pytest.raises(InputError, match="mask_scale must lie"):  # known only beside the images
        train(out=run.path, overwrite=True, **(options | {"mask_scale": 12}))
    assert Run.open(run.path).finished
    (tmp_path / "mine" / "config.json").write_text('{"name": "of another program"}')
    with pytest.raises(InputError, match="holds no run"):
        train(out=tmp_path / "mine", overwrite=True, **options)
    inside = run.path / "images.npz"
    inside.write_bytes(npz.read_bytes())
    with pytest.raises(InputError, match=r"lies in .* which --overwrite empties"):
        train(out=run.path, overwrite=True, **(options | {"data": str(inside)}))
    with pytest.raises(InputError, match="is a run, whose model is in"):
        run.model.save_pretrained(run.path)
    assert Run.open(run.path).finished


def test_a_run_that_cannot_go_on_stays_as_it_was(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, checkpoint_every=4, **QUICK)
    before = (run.path / "config.json").read_text()
    states = checkpoint.saved_states(run.path / "state")
    (states[1] / "state.json").write_text("{}")  # passed over
    assert train(resume=run.path, epochs=2).summary["steps"] == 12
    for state in checkpoint.saved_states(run.path / "state"):
        (state / "state.safetensors").write_bytes(b"cut off")
    (run.path / "config.json").write_text(before)
    with pytest.raises(InputError, match="truncated"):
        train(resume=run.path, epochs=5)
    assert (run.path / "config.json").read_text() == before
    shutil.rmtree(run.path / "state")
    with pytest.raises(InputError, match="holds nothing to go on from"):
        train(resume=run.path, epochs=5)
    assert Run.open(run.path).summary["steps"] == 12


def test_a_model_that_is_trained_on_says_of_which_epoch_it_is(npz: Path, tmp_path: Path, monkeypatch):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    assert (run.epochs, run.going_on) == (1, None)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(8, patch)
        train(resume=run.path, epochs=3)
    again = Run.open(run.path)
    assert again.epochs == 1
    assert again.going_on == "the model is of epoch 1; the training until epoch 3 is not finished"


def test_a_second_process_is_kept_out_of_a_run(npz: Path, tmp_path: Path):
    from splitvae.training.guard import only_process_in

    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    with only_process_in(run.path):
        for arguments in (
            {"resume": run.path, "epochs": 2},
            {"out": run.path, "overwrite": True, "data": str(npz), **QUICK},
        ):
            with pytest.raises(InputError, match="in use by another process"):
                train(**arguments)
    train(resume=run.path, epochs=2)


def test_a_resumed_run_keeps_its_architecture_seed_and_data(npz: Path, folder: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    for changes, words in (
        ({"latent_dim": 5}, "latent_dim of .* is 4 and cannot become 5"),
        ({"seed": 1}, "seed of"),
        ({"data": str(folder), "epochs": 2}, "is not the data"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epoch": 3}, "unknown option 'epoch' .* Did you mean 'epochs'"),
    ):
        with pytest.raises(InputError, match=words):
            train(resume=run.path, **changes)
    longer = train(resume=run.path, epochs=2)
    with pytest.raises(InputError, match="may have more, not less"):
        train(resume=longer.path, epochs=1)


def test_a_run_directory_explains_itself(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=2, snapshot_every=1, ema_decay=0.99, **QUICK)
    record = json.loads((run.path / "config.json").read_text())
    assert record["image_shape"] == [3, 16, 16]
    assert record["versions"]["torch"] == version("torch")
    assert record["data"]["content_hash"] == run.data.meta["content_hash"]
    assert record["machine"]["precision"] == "fp32"
    assert sorted(path.name for path in (run.path / "snapshots").iterdir()) == ["epoch-0001", "epoch-0002"]
    assert same(weights(run), weights(run, "snapshots/epoch-0002"))
    steps = [int(path.stem.split("-")[1]) for path in sorted((run.path / "samples").iterdir())]
    assert steps == [1, 2, 4, 8, 12]  # doubling, then the end: these epochs are too short for a picture each
    line = run.log()[-1]
    assert line["beta_gamma"] == pytest.approx(3 * line["gamma"])
    summary = run.summary
    x = torch.from_numpy(run.data.images[48:].copy()).float() / 255
    assert summary["mse"] == pytest.approx(float((run.model.reconstruct(x) - x).square().mean()), rel=1e-4)
    assert run.model.sample(2).shape == (2, 3, 16, 16)


def test_short_recipes_start_gamma_at_the_first_batchs_mse(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **(QUICK | {"log_every": 1}))
    first = run.log()[0]
    assert first["gamma"] == pytest.approx(first["mse"], rel=0.05)
    assert [line["gamma"] for line in run.log()] == sorted((line["gamma"] for line in run.log()), reverse=True)


def test_a_line_of_the_log_is_a_mean_over_its_steps_likelihood_and_all(npz: Path, tmp_path: Path):
    each = train(out=tmp_path / "each", data=str(npz), epochs=1, **(QUICK | {"log_every": 1})).log()
    D = 3 * 16 * 16
    for line in each:
        assert line["nll"] == pytest.approx(
            line["reconstruction"] + D / 2 * np.log(2 * np.pi * line["gamma"]), abs=0.05
        )
    assert each[-1]["gamma"] < each[0]["gamma"]
    (all_of_them,) = train(out=tmp_path / "all", data=str(npz), epochs=1, **(QUICK | {"log_every": len(each)})).log()
    for name in ("nll", "loss", "mse"):
        assert all_of_them[name] == pytest.approx(np.mean([line[name] for line in each]), rel=1e-4)


def test_a_reading_that_waits_for_its_turn_is_in_the_state():
    def values(number: float) -> torch.Tensor:
        return torch.full((3,), number)

    watch = Watch(every=2, total=6, at_once=False)
    assert [watch.take(step, values(step), 0.1) for step in (1, 2, 3)] == [[], [], []]
    again = Watch(every=2, total=6, at_once=False)
    again.load(json.loads(json.dumps(watch.state())))
    (reading,) = again.take(4, values(4), 0.1)
    assert (reading.step, reading.steps, reading.lr) == (2, 2, 0.1)
    assert reading.means.tolist() == [1.5] * 3
    (last,) = again.take(5, values(5), 0.1, now=True)
    assert (last.step, last.means.tolist()) == (4, [3.5] * 3)


def test_a_training_leaves_nothing_behind_in_its_process(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU of the caller's was seeded"))
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    assert not is_initialized()  # so that the next training may take another device
    theirs = Accelerator(cpu=True)
    train(resume=run, epochs=2)
    assert theirs.state.device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(npz: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no device 'cuda' here"):
        train(out=tmp_path / "run", data=str(npz), epochs=1, **(QUICK | {"device": "cuda"}))
    assert not (tmp_path / "run").exists()


def test_a_run_on_another_device_leaves_the_model_of_this_one_where_it_is(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    assert run.on(torch.device("cpu")) is run
    there = run.on(torch.device("meta"))
    assert (there.path, there.model.device.type, run.model.device.type) == (run.path, "meta", "cpu")


def test_a_resumed_run_writes_the_same_log(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = QUICK | {"data": str(npz), "epochs": 2, "log_every": 5, "checkpoint_every": 4}
    whole = train(out=tmp_path / "whole", **options).log()
    with monkeypatch.context() as patch:
        cut_at(10, patch)  # the state is of step 8, the last line of step 5
        with pytest.raises(Cut):
            train(out=tmp_path / "run", **options)
    resumed = train(resume=tmp_path / "run").log()
    names = ("step", "loss", "mse", "kl", "grad_norm", "nll")
    assert all(line["sec_per_step"] > 1e-4 for line in resumed)
    assert [[line[name] for name in names] for line in resumed] == [[line[name] for name in names] for line in whole]


def test_training_lowers_the_loss(npz: Path, tmp_path: Path):
    wider = {"base_channels": 16, "embedding_dim": 64, "latent_dim": 16, "beta": 0.1, "lr": 3e-3, "log_every": 6}
    run = train(out=tmp_path / "run", data=str(npz), epochs=40, **(QUICK | wider))
    assert run.log()[-1]["mse"] < 0.7 * run.log()[0]["mse"]


def test_the_model_for_use_is_the_average_where_one_is_kept(npz: Path, tmp_path: Path):
    from safetensors.torch import load_file

    run = train(out=tmp_path / "run", data=str(npz), epochs=2, ema_decay=0.99, **QUICK)
    state = load_file(checkpoint.saved_states(run.path / "state")[-1] / "state.safetensors")
    name = "network.encoder.stem.weight"
    assert torch.equal(weights(run)[name], state[f"average.{name}"])
    assert not torch.equal(weights(run)[name], state[f"model.{name}"])


def test_on_a_gpu_nothing_is_written_unseen(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Values are read now and then only where reading waits for the device; before each write they must be.
    options = QUICK | {"data": str(npz), "epochs": 2, "log_every": 1000, "checkpoint_every": 4}
    monkeypatch.setattr(loop, "reads_at_once", lambda device: False)
    real = SplitVAE.encode
    calls: list[int] = []

    def encode(self: SplitVAE, x: torch.Tensor) -> object:
        posterior = real(self, x)
        if self.training and torch.is_grad_enabled():
            calls.append(1)
            if len(calls) >= 6:
                posterior.mean.data[0] = float("nan")
        return posterior

    with monkeypatch.context() as patch, pytest.raises(SplitVAEError, match="diverged at step 7"):
        patch.setattr(SplitVAE, "encode", encode)
        train(out=tmp_path / "run", **options)
    assert [path.name for path in checkpoint.saved_states(tmp_path / "run" / "state")] == ["step-000000004"]
    assert not (tmp_path / "run" / "model").exists()


def test_ema_decay_averages_weights():
    from splitvae.training.ema import update_average

    model, average = SplitVAE((1, 16, 16), **TINY), SplitVAE((1, 16, 16), **TINY)
    expected = 0.75 * average.network.mean.weight + 0.25 * model.network.mean.weight
    update_average(average, model, decay=0.75, step=1000)
    torch.testing.assert_close(average.network.mean.weight, expected)


def test_pictures_come_at_steps_that_double_and_then_every_epoch():
    from splitvae.training.records import wants_picture

    assert [s for s in range(1, 181) if wants_picture(s, 60, 180)] == [1, 2, 4, 8, 16, 32, 60, 120, 180]
    assert [s for s in range(1, 49) if wants_picture(s, 6, 47)] == [1, 2, 4, 8, 16, 24, 47, 48]


def test_tensorboard_gets_the_log_as_well(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, tracker="tensorboard", **QUICK)
    assert list(run.path.rglob("events.out.tfevents.*"))


@pytest.mark.filterwarnings("ignore")  # of the trackers
@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_other_trackers_get_the_log_as_well(tracker: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(tracker, reason=f"the extra {tracker} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, tracker=tracker, **QUICK)
    if tracker == "wandb":
        assert list(tmp_path.rglob("offline-run-*/*.wandb"))
    else:
        [losses] = (path for path in (tmp_path / "mlruns").rglob("metrics/loss"))
        kept = [float(line.split()[1]) for line in losses.read_text().splitlines()]
        assert kept == pytest.approx([line["loss"] for line in run.log()])


@pytest.fixture
def any_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers are taken for installed, by us and by accelerate; what they do is for each test to say."""
    monkeypatch.setattr(loop, "find_spec", lambda name: True)
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda name, folder: [name] if name else [])


def test_every_tracker_gets_the_runs_name_and_each_line(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_tracker: None
):
    started, lines = [], []
    monkeypatch.setattr(loop.Accelerator, "init_trackers", lambda self, *arguments: started.append(arguments))
    monkeypatch.setattr(loop.Accelerator, "log", lambda self, values, step: lines.append((step, values["loss"])))
    run = train(out=tmp_path / "mine", data=str(npz), epochs=1, tracker="wandb", **QUICK)
    [(project, values, names)] = started
    assert (project, values["tracker"], names) == ("splitvae", "wandb", {"wandb": {"name": "mine"}})
    assert lines == [(line["step"], line["loss"]) for line in run.log()]


def test_a_tracker_that_is_missing_is_told_in_one_line(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'splitvae\[mlflow\]'"):
        train(out=tmp_path / "run", data=str(npz), epochs=1, tracker="mlflow", **QUICK)


def test_a_tracker_that_does_not_start_is_told_in_one_line(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_tracker: None
):
    def no_account(self: object, *arguments: object) -> None:
        raise RuntimeError("no API key")

    before = train(out=tmp_path / "run", data=str(npz), epochs=1, **QUICK)
    monkeypatch.setattr(loop.Accelerator, "init_trackers", no_account)
    for out in ("run", "new"):
        with pytest.raises(SplitVAEError, match="wandb does not start: no API key"):
            train(out=tmp_path / out, data=str(npz), epochs=1, tracker="wandb", overwrite=True, **QUICK)
    assert before.finished  # the run that was to be replaced
    assert not (tmp_path / "new").exists()


def test_a_tracker_that_is_lost_on_the_way_stops_nothing(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, any_tracker: None
):
    def gone(*arguments: object, **options: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(loop.Accelerator, "log", gone)

    def start(self: loop.Accelerator, *arguments: object) -> None:
        self.trackers.append(SimpleNamespace(finish=gone))

    monkeypatch.setattr(loop.Accelerator, "init_trackers", start)
    run = train(out=tmp_path / "run", data=str(npz), epochs=2, tracker="wandb", **QUICK)
    assert run.finished
    assert len(run.log()) > 1
    assert capsys.readouterr().err.count("the tracker is lost, log.jsonl goes on without it: the server is gone\n") == 2


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_eager_one(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled_models = []
    real = loop._compiled
    monkeypatch.setattr(loop, "_compiled", lambda *given: compiled_models.append(real(*given)) or compiled_models[-1])
    logs = [train(out=tmp_path / str(c), data=str(npz), epochs=1, compile=c, **QUICK).log() for c in (False, True)]
    assert len(compiled_models) == 1
    for eager, compiled in zip(*logs, strict=True):
        assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-3)


def test_bf16_stays_close_to_float32(npz: Path, tmp_path: Path):
    logs = [
        train(out=tmp_path / p, data=str(npz), epochs=2, **(QUICK | {"precision": p})).log()[-1]
        for p in ("fp32", "bf16")
    ]
    assert logs[0]["mse"] == pytest.approx(logs[1]["mse"], rel=0.05)
    assert logs[0]["loss"] != logs[1]["loss"]  # it is another arithmetic


def test_the_precision_is_what_gains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cpu, seconds = torch.device("cpu"), {torch.float32: 1.1, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_convolution_seconds", seconds.__getitem__)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")  # no Linux
    assert precision.choose_precision("auto", cpu)[0] == "fp32"
    seconds[torch.float32] = 1.3
    assert precision.choose_precision("auto", cpu)[0] == "bf16"
    assert precision.choose_precision("fp32", cpu) == ("fp32", "asked for")
    seconds[torch.float32] = 0.1  # never timed where the instructions are known
    (tmp_path / "cpuinfo").write_text("flags : avx2 avx512_bf16 amx_bf16")
    assert precision.choose_precision("auto", cpu) == ("bf16", "the CPU has amx_bf16, avx512_bf16")
    (tmp_path / "cpuinfo").write_text("flags : avx2")
    assert precision.choose_precision("auto", cpu)[0] == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision.choose_precision("auto", cpu)[0] == "bf16"


@pytest.mark.parametrize(("step", "d"), [(1, 2 / 11), (10, 0.55), (10**6, 0.9)])
def test_the_average_of_the_weights_forgets_its_start(step: int, d: float):
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.normal_(model.weight)
    model.running_mean.fill_(7)
    before = average.weight.detach().clone()
    update_average(average, model, 0.9, step)
    torch.testing.assert_close(average.weight, d * before + (1 - d) * model.weight)
    assert torch.equal(average.running_mean, model.running_mean)
    update_average(nn.Linear(2, 1), nn.Linear(2, 1), 0.9, step)  # a network without buffers


def test_adam_is_the_papers_and_gradients_are_clipped(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[tuple[float, float], float, float]] = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            norm = float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
            seen.append((self.param_groups[0]["betas"], self.param_groups[0]["eps"], norm))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, clip_norm=0.5, **QUICK)
    assert {(betas, eps) for betas, eps, _ in seen} == {((0.9, 0.999), 1e-7)}  # Keras' eps
    assert max(norm for *_, norm in seen) <= 0.5 * (1 + 1e-5)
    assert run.log()[0]["grad_norm"] > 0.5  # of before


def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path, npz: Path):
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(768, 8)

        def forward(self, x):
            return self.layer(x.flatten(1)).chunk(2, dim=1)

    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(4, 768), nn.Sigmoid(), nn.Unflatten(1, (3, 16, 16)))
    register_network("plain", (Encoder(), decoder))  # without batch norm
    options = {"data": str(npz), "epochs": 1, "network": "plain", "model": "vae", "latent_dim": 4}
    options |= {"batch_size": 8, "precision": "fp32", "quiet": True, "log_every": 1, "device": "cpu"}
    whole, parts = (train(out=tmp_path / str(n), accumulate=n, **options).log() for n in (1, 4))
    for one, other in zip(whole, parts, strict=True):
        for name in ("loss", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_a_state_is_kept_every_few_minutes(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, checkpoint_minutes=1e-9, **QUICK)
    assert [path.name for path in checkpoint.saved_states(run.path / "state")] == ["step-000000005", "step-000000006"]


def test_batches_fit_the_data_or_say_what_to_choose(npz: Path, tmp_path: Path):
    run = train(out=tmp_path / "run", data=str(npz), epochs=1, **(QUICK | {"batch_size": 100}))
    assert run.config.batch_size == 48
    with pytest.raises(InputError, match="choose another --batch-size or --accumulate"):
        train(out=tmp_path / "odd", data=str(npz), epochs=1, **(QUICK | {"batch_size": 8, "accumulate": 8}))


def test_the_papers_presets_are_frozen():
    # Whatever else becomes a default, and a new option must leave these models what they are.
    common = {
        "crop": "auto", "fit": "crop", "flip": False, "skip_damaged": False, "model": "splitvae",
        "network": "split-vae", "num_components": 2, "base_channels": 64, "num_scales": 4, "scale_blocks": 1,
        "blocks_per_scale": 1, "depth_per_block": 2, "embedding_dim": 512, "padding": "torch",
        "batch_norm_momentum": 0.001, "output_init": "random", "gamma_rule": "running-min", "gamma_init": 1.0,
        "split": "free", "mask_scale": 1, "mask_smoothness": 0.0, "mask_decisiveness": 0.0, "mask_balance": 0.0,
        "masks": None, "batch_size": 100, "lr": 1e-3, "lr_schedule": "constant", "warmup_steps": 0,
        "clip_norm": None, "ema_decay": 0.0, "seed": 0, "gamma_lr": 1.0, "lr_halve_every": 150, "accumulate": 1,
        "sync_batch_norm": True, "mask_share": 1.0, "mask_repeat": 1, "guidance": 10.0, "embedding_weight": 1e-4,
        "penalty_weight": 1e-7, "gradient_penalty": "authors",
    }  # fmt: skip
    mnist = common | {"image_size": 32, "latent_dim": 32, "beta": 8.0, "epochs": 250}
    expected = {
        "mnist": mnist,
        "fashion-mnist": mnist,
        "cifar10": mnist | {"latent_dim": 200, "beta": 3.0, "epochs": 110},
        "celeba": mnist | {"image_size": 64, "latent_dim": 150, "beta": 3.0, "epochs": 160},
    }
    for name, recipe in expected.items():
        own = resolve(name).to_dict()
        assert {key: own[key] for key in recipe} == recipe
        assert own.keys() - recipe.keys() == ELSEWHERE  # an option that may shape a model stands above
    assert all(preset.card for preset in PRESETS.values())


def test_even_two_pictures_train(tmp_path: Path):
    import numpy as np

    np.savez(tmp_path / "two.npz", train=pixels(2), test=pixels(1, seed=5))
    run = train(out=tmp_path / "run", data=str(tmp_path / "two.npz"), epochs=1, **QUICK)
    assert run.summary["steps"] == 1
