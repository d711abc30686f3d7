"""Promises about evaluations: what is compared with what, that protocols stay apart, and that numbers can be redone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, pixels

from splitvae import DiagonalGaussian, InputError, Run, SplitVAE, SplitVAEError, StandardNormal, evaluate, train
from splitvae.codes import encode_rows
from splitvae.data.loader import fixed_rows, seeded
from splitvae.densities.fit import fit_density
from splitvae.densities.store import load_density
from splitvae.evaluation import evaluate as evaluating
from splitvae.evaluation.compare import _against, compare, interval
from splitvae.evaluation.evaluate import chosen, summarize
from splitvae.evaluation.features import Extractor, extract
from splitvae.evaluation.latents import diagnose_latents, diagnosis
from splitvae.evaluation.metrics import frechet_from_features
from splitvae.evaluation.nearest import nearest_training
from splitvae.evaluation.outputs import decode_outputs, mixed, output_features
from splitvae.evaluation.split_kind import split_kind, split_of_model
from splitvae.evaluation.verify import _numbers, verify
from splitvae.pictures import to_uint8
from splitvae.reports.columns import component_words
from splitvae.reports.report import component_line, render_record, write_report

Call = Callable[..., tuple[int, str, str]]
COLOUR = Extractor("mean-colour", 3, lambda x: x.float().mean(dim=(2, 3)), "none", "no-weights", published=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on 48 training and 24 test images with labels, with a mixture and a class-wise one."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        images, labels = pixels(72), np.arange(72) % 3
        np.savez(
            folder / "data.npz", train=images[:48], test=images[48:], train_labels=labels[:48], test_labels=labels[48:]
        )
        options = TINY | {"data": str(folder / "data.npz"), "batch_size": 8, "precision": "fp32", "quiet": True}
        run = train(out=folder / "run", epochs=2, **options)
        fit_density(run, "gmm", n_components=2)
        fit_density(run, "gmm-per-class", covariance_type="diag")
        yield folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, so that tests cannot disturb each other."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_the_table_has_every_source_and_output_and_keeps_the_protocols_apart(run: Path):
    result = evaluate(run, COLOUR, "both", seeds=2)
    lines = {(line["protocol"], line["source"]): line["seeds"] for line in summarize(result["rows"])}
    assert lines == {
        ("clean", "REC"): [0],
        ("clean", "normal"): [0, 1],
        ("clean", "gmm"): [0, 1],
        ("clean", "gmm-per-class"): [0, 1],
        ("paper", "REC"): [0, 1],
        ("paper", "normal"): [0, 1],
        ("paper", "gmm-test"): [0, 1],
    }
    assert {row["output"] for row in result["rows"]} == {"x_hat", "x1", "x2", "mix"}
    names = {"frechet_distance", "frechet_distance_train", "memorisation_gap", "frechet_at_infinity"}
    names |= {"kid", "kid_std", "precision", "recall", "density", "coverage"}
    assert all(set(row["metrics"]) == names for row in result["rows"])
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(result))
    assert any("has seen the images" in note for note in result["notes"])
    # The paper's twin is fitted as the clean one was, on the 24 test codes.
    density = Run.open(run).path / "densities" / "gmm-test.safetensors"
    assert density.exists()
    assert evaluate(run, COLOUR, "clean", metrics="frechet")["rows"][0]["protocol"] == "clean"


def test_the_numbers_are_those_of_a_computation_by_hand(run: Path):
    result = evaluate(run, COLOUR, densities=[], metrics="frechet")
    opened = Run.open(run)
    cache, model = opened.data, opened.model
    test, train_ = (extract(cache.images[fixed_rows(cache, split, 24)], COLOUR) for split in ("test", "train"))
    x = torch.from_numpy(cache.images[fixed_rows(cache, "test", 24)]).float() / 255
    z = StandardNormal(4).sample(24, generator=seeded(0, "sample", 0))
    with torch.inference_mode():
        x_hat, made = model.reconstruct(x), model.decode(z)
    by_hand = {
        ("REC", "x_hat"): to_uint8(x_hat),
        ("normal", "x_hat"): to_uint8(made.x_hat),
        ("normal", "x2"): to_uint8(made.components[:, 1]),
    }
    found = {(row["source"], row["output"]): row["metrics"] for row in result["rows"]}
    for key, images in by_hand.items():
        features = extract(images, COLOUR)
        assert found[key]["frechet_distance"] == pytest.approx(frechet_from_features(features, test), rel=1e-6)
        assert found[key]["frechet_distance_train"] == pytest.approx(frechet_from_features(features, train_), rel=1e-6)
    # The floor is of other training images than those that distances to train are measured to.
    others = extract(cache.images[fixed_rows(cache, "train", 48)[24:]], COLOUR)
    assert result["floor"]["frechet_distance"] == pytest.approx(frechet_from_features(others, test), rel=1e-6)
    assert result["floor"]["frechet_distance_train"] == pytest.approx(frechet_from_features(others, train_), rel=1e-6)


def test_the_kind_of_split_is_that_of_the_reconstructed_test_images(run: Path):
    result, opened = evaluate(run, COLOUR), Run.open(run)
    x = torch.from_numpy(opened.data.images[opened.data.splits["test"]].copy()).float() / 255
    with torch.no_grad():
        decoded = opened.model.decode(opened.model.encode(x).mode())
    expected = split_kind(decoded.weights, decoded.x_hat)
    assert result["split"].pop("kind") == expected.pop("kind")
    assert result["split"] == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    assert split_of_model(SplitVAE((1, 16, 16), 4, 1, base_channels=4), torch.zeros(2, 4)) is None


def test_a_mix_is_made_of_rows_of_the_components(run: Path):
    model = Run.open(run).model
    features = output_features(model, StandardNormal(4).sample(200, seeded(0, "z", 0)), COLOUR)
    mix = mixed(features, seed=0)
    first, second = (mix == features[:, 1]).all(axis=1), (mix == features[:, 2]).all(axis=1)
    assert (first | second).all()
    assert 60 < first.sum() < 140


def test_outputs_are_x_hat_and_the_components_rounded(run: Path):
    model = Run.open(run).model
    z = StandardNormal(4).sample(3, seeded(0, "z", 0))
    (images,) = decode_outputs(model, z)
    with torch.inference_mode():
        decoded = model.decode(z)
    assert images.shape == (3, 3, 3, 16, 16)
    assert (images[:, 0] == to_uint8(decoded.x_hat)).all()
    assert (images[:, 1:] == to_uint8(decoded.components)).all()


def test_x_hat_alone_has_the_numbers_that_it_has_among_all(run: Path, splitvae: Call):
    among_all = evaluate(run, COLOUR, n=100, metrics="frechet")["rows"]
    alone = evaluate(run, COLOUR, n=100, metrics="frechet", outputs="x_hat")
    assert alone["rows"] == [row for row in among_all if row["output"] == "x_hat"] != among_all
    assert component_line(alone) is None
    assert all(check.agrees for check in verify(run, COLOUR))
    status, out, _ = splitvae("evaluate", run, "--extractor", "efficientnet-lite0", "--n", 20, "--output", "x_hat")
    assert status == 0
    assert "x̂₁" not in out


def test_kept_features_are_used_again_and_follow_the_latents(run: Path):
    calls = []

    def counting(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images.float().mean(dim=(2, 3))

    extractor = Extractor("counting", 3, counting, "none", f"weights {run}")
    first = evaluate(run, extractor, metrics="frechet")
    assert sum(calls) == 3 * 24 + 4 * 3 * 24  # test, train, floor, then x̂, x̂₁, x̂₂ of four sources
    calls.clear()
    assert evaluate(run, extractor, metrics="frechet") == first
    assert not calls
    evaluate(run, extractor, seeds=2, metrics="frechet", densities=[])
    assert sum(calls) == 3 * 24
    unnamed = Extractor("counting", 3, counting)  # no statement of its weights: nothing may be kept
    calls.clear()
    evaluate(run, unnamed, metrics="frechet", densities=[])
    evaluate(run, unnamed, metrics="frechet", densities=[])
    assert sum(calls) == 2 * (3 * 24 + 2 * 3 * 24)


def test_the_choice_does_not_look_at_the_test_split():
    def row(source: str, test: float, train_: float, protocol: str = "clean") -> dict:
        metrics = {"frechet_distance": test, "frechet_distance_train": train_}
        return {"protocol": protocol, "source": source, "output": "x_hat", "seed": 0, "metrics": metrics}

    rows = [row("REC", 1, 1), row("normal", 5, 9), row("gmm", 6, 8), row("gmm-test", 2, 2, "paper")]
    assert chosen(rows)["source"] == "gmm"
    with pytest.raises(InputError, match="clean protocol"):
        chosen(rows[-1:])


def opened_density(run: Run):
    return load_density("gmm-per-class", run.path, 4)[0]


def test_an_extractor_with_classes_says_which_class_the_samples_are_of(run: Path):
    head = (np.eye(3) * 2, np.zeros(3))
    extractor = Extractor("colours", 3, COLOUR.network, "none", "w", head=head)
    result = evaluate(run, extractor, metrics="frechet", densities=["gmm-per-class"])
    rows = {(row["source"], row["output"]): row["metrics"] for row in result["rows"]}
    opened = Run.open(run)
    z, labels = opened_density(opened).sample_labelled(24, seeded(0, "sample", 0))
    with torch.inference_mode():
        found = extractor.classify(extract(to_uint8(opened.model.decode(z).x_hat), extractor))
    assert rows["gmm-per-class", "x_hat"]["class_accuracy"] == pytest.approx(float((found == labels.numpy()).mean()))
    assert "class_accuracy" not in rows["normal", "x_hat"]
    assert 0 <= rows["normal", "x_hat"]["class_total_variation"] <= 1
    assert 0 < result["floor"]["class_accuracy"] < 1  # of the real test images, to read the others against


def test_verify_agrees_until_something_changes(run: Path, splitvae: Call):
    evaluate(run, COLOUR, seeds=2)
    checks = verify(run, COLOUR)
    assert len(checks) > 100
    assert all(check.agrees for check in checks)
    written = (run / "metrics.json").read_text()

    def wrong_after(change: Callable[[dict], object]) -> list[str]:
        metrics = json.loads(written)
        change(metrics)
        (run / "metrics.json").write_text(json.dumps(metrics))
        return [check.what for check in verify(run, COLOUR, sources=["normal"]) if not check.agrees]

    assert wrong_after(lambda metrics: None) == []
    normal = next(i for i, row in enumerate(json.loads(written)["rows"]) if row["source"] == "normal")
    (what,) = wrong_after(lambda m: m["rows"][normal]["metrics"].update(kid=0.5))
    assert what == "clean normal x_hat seed 0: kid"
    assert "clean normal x_hat seed 0" in wrong_after(lambda m: m["rows"].pop(normal))
    swapped = wrong_after(
        lambda m: (m["rows"][normal].update(output="x1"), m["rows"][normal + 1].update(output="x_hat"))
    )
    assert "clean normal x_hat seed 0: frechet_distance" in swapped
    assert wrong_after(lambda m: m.update(distance="FID")) == ["distance"]
    assert wrong_after(lambda m: m["card"].update(real_images=50_000)) == ["card: real_images"]
    assert wrong_after(lambda m: m["latents"].update(kl=1.0))[0] == "latents: kl"
    assert wrong_after(lambda m: m["latents"].pop("aggregate_kl_by_chance")) == []  # written before there was such
    assert wrong_after(lambda m: m["latents"].update(aggregate_kl_by_chance=None))  # as of fewer codes than latents
    assert _numbers("latents", {"by_chance": None}, {"by_chance": None}, 1e-3)[0].agrees
    assert wrong_after(lambda m: m.update(diagnosis="perfect")) == ["diagnosis"]
    (run / "metrics.json").write_text(written)
    fit_density(Run.open(run), "gmm", n_components=3)
    refitted = [check.what for check in verify(run, COLOUR, sources=["REC"]) if not check.agrees]
    assert refitted == ["file of gmm"]
    (run / "densities" / "gmm.safetensors").unlink()
    missing = [check.what for check in verify(run, COLOUR, sources=["gmm"]) if not check.agrees]
    assert missing == ["clean gmm", "file of gmm"]
    status, _, err = splitvae("verify", run, "--source", "gmmm")
    assert (status, err.count("\n")) == (2, 1)


def test_a_comparison_refuses_other_protocols_and_pairs_seeds(run: Path, trained: Path, tmp_path: Path, splitvae: Call):
    other = tmp_path / "other"
    options = TINY | {"data": str(trained / "data.npz"), "batch_size": 8, "precision": "fp32", "quiet": True}
    train(out=other, epochs=1, num_components=1, **options)
    evaluate(run, COLOUR, seeds=3)
    evaluate(other, COLOUR, seeds=3)
    result = compare([run, other])
    lines = {(line["source"], line["output"]): line["cells"] for line in result["lines"]}
    verdicts = {cell["verdict"] for cell in lines["normal", "x_hat"]}
    assert "best" in verdicts
    assert verdicts <= {"best", "worse", "indistinguishable at these seeds"}
    (beaten,) = [cell for cell in lines["normal", "x_hat"] if cell["verdict"] != "best"]
    assert beaten["interval"][0] <= beaten["difference"] <= beaten["interval"][1]
    assert beaten["pairs"] == 3
    assert lines["REC", "x_hat"][0]["verdict"] in ("best", "too few seeds")
    assert lines["normal", "mix"][1] is None  # a plain VAE has no mix
    status, out, _ = splitvae("compare", run, other)
    assert status == 0
    assert "best" in out

    assert "the luck of training is not in them" in out

    with pytest.raises(InputError, match="no line of the paper protocol"):
        compare([run, other], protocol="paper")
    with pytest.raises(InputError, match="it has frechet_distance"):
        compare([run, other], metric="fid")
    for runs in ([run], [run, run]):
        with pytest.raises(InputError, match="at least two"):
            compare(runs)
    evaluate(other, COLOUR, n=20)
    assert (other / "metrics-1.json").exists()  # three seeds of 24 images are not thrown away
    with pytest.raises(InputError, match="real_images 20 and 24"):
        compare([run, other])
    assert compare([run, other], mixed=True)["systems"][1]["differs"]


def test_intervals_hold_what_they_promise():
    rng = np.random.default_rng(0)
    for n in (3, 10, 40):
        outside = 0
        for _ in range(400):
            low, high = interval(rng.normal(size=n), rng)
            outside += not low <= 0 <= high
        assert outside / 400 < 0.11  # 5 % are meant; a bootstrap of 3 pairs gives 27 %


def test_the_best_by_its_mean_may_be_worse_at_common_seeds():
    # One seed of the best, which the other lacks, carries its mean.
    best = {0: {0: 10.0}, 1: {0: 10.0}, 2: {0: 10.0}, 3: {0: -30.0}}
    found = _against({0: {0: 5.0}, 1: {0: 5.1}, 2: {0: 4.9}}, best, 1, np.random.default_rng(0))
    assert found["verdict"] == "better at common seeds"
    assert found["difference"] == pytest.approx(-5)


def test_runs_that_differ_in_their_seed_are_one_system(run: Path, tmp_path: Path):
    evaluate(run, COLOUR, metrics="frechet", densities=[])

    def copy(name: str, seed: int, shift: float, **config: object) -> Path:
        shutil.copytree(run, tmp_path / name)
        record = json.loads((tmp_path / name / "config.json").read_text())
        record["config"] |= {"seed": seed, **config}
        (tmp_path / name / "config.json").write_text(json.dumps(record))
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        for row in metrics["rows"]:
            row["metrics"]["frechet_distance"] += shift
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        return tmp_path / name

    ours = [copy(f"ours{seed}", seed, 100 + seed, tracker="wandb", checkpoint_minutes=1.0 + seed) for seed in range(3)]
    record = json.loads((ours[2] / "config.json").read_text())
    del record["config"]["mask_scale"]  # written before there was such an option
    record["config"]["head"] = "shared"  # and while there was one that is gone
    (ours[2] / "config.json").write_text(json.dumps(record))
    theirs = [copy(f"theirs{seed}", seed, 110 + 1.1 * seed, beta=99.0) for seed in range(3)]
    result = compare([*ours, *theirs])
    assert [system["training_seeds"] for system in result["systems"]] == [[0, 1, 2], [0, 1, 2]]
    for line in result["lines"]:
        best, worse = line["cells"]
        assert (best["verdict"], worse["verdict"]) == ("best", "worse")
        assert (worse["pairs"], worse["paired_by"]) == (3, "training seeds")
        assert worse["difference"] == pytest.approx(10.1)
        assert best["spread"] == pytest.approx(1)
    with pytest.raises(InputError, match="one system"):
        compare(ours)


def test_numbers_of_an_earlier_model_are_neither_compared_nor_reported(run: Path, tmp_path: Path, splitvae: Call):
    evaluate(run, COLOUR, metrics="frechet", densities=[])
    write_report(Run.open(run))
    shutil.copytree(run, tmp_path / "other")
    train(resume=run, epochs=3, quiet=True)
    for arguments in (("compare", run, tmp_path / "other"), ("report", run)):
        status, _, err = splitvae(*arguments)
        assert (status, err.count("\n")) == (2, 1)
        assert "metrics.json is of an earlier model; evaluate again: splitvae evaluate" in err
    page = render_record(Run.open(run))
    assert "Evaluated before it was trained on." in page
    assert "Not evaluated yet." not in page


def test_fit_density_takes_a_path_and_knows_its_options(run: Path):
    assert fit_density(run, "gmm", n_components=1, data=Run.open(run).config.data)[0].n_components == 1
    with pytest.raises(InputError, match=r"'components' is no option of gmm\. Did you mean 'n_components'"):
        fit_density(run, "gmm", components=3)
    assert fit_density(run, "gmm-per-class", max_iter=2, covariance_type="diag")[1]["options"]["max_iter"] == 2
    for option in ("options", "epochs", "device_"):
        with pytest.raises(InputError, match=f"'{option}' is no option of gmm-per-class"):
            fit_density(run, "gmm-per-class", **{option: 3})


def test_the_same_numbers_cannot_be_told_apart(run: Path, tmp_path: Path):
    evaluate(run, COLOUR, seeds=3)
    shutil.copytree(run, tmp_path / "again")
    record = json.loads((tmp_path / "again" / "config.json").read_text())
    record["config"]["beta"] = 99.0  # another system with the same numbers
    (tmp_path / "again" / "config.json").write_text(json.dumps(record))
    for line in compare([run, tmp_path / "again"])["lines"]:
        if line["source"] != "REC":
            assert line["cells"][1]["verdict"] == "indistinguishable at these seeds"


def test_components_are_told_beside_the_blend():
    def row(output: str, seed: int, distance: float, source: str = "gmm") -> dict:
        metrics = {"frechet_distance": distance}
        return {"protocol": "clean", "source": source, "output": output, "seed": seed, "metrics": metrics}

    rows = [
        row("x_hat", 0, 10),
        row("x_hat", 1, 12),
        row("x1", 0, 8),
        row("x1", 1, 8),
        row("mix", 0, 11),
        row("mix", 1, 13),
    ]
    expected = "beside x̂ (gmm, distance to test images, negative = nearer): x̂₁ -3.00 ± 1.41, mix +1.00 ± 0.00"
    assert component_words([*rows, row("x_hat", 0, 99, "normal")], "gmm") == expected
    assert component_words(rows[::2], "gmm").endswith("x̂₁ -2.00, mix +1.00")


def test_the_report_is_one_file_that_needs_nothing_else(run: Path):
    evaluate(run, COLOUR, "both")
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") >= 6
    assert "http" not in text
    assert 'src="data:' in text
    data = Path(Run.open(run).config.data).parent
    assert str(run.parent) not in text  # nobody's folders in a file that is passed on
    assert str(data) not in text
    for words in (
        "Clean protocol",
        "Paper protocol",
        "x̂₁",
        "gmm-per-class",
        "Diagnosis",
        "Copies of training",
        COLOUR.resize,
    ):
        assert words in text


def test_files_that_are_passed_on_name_no_folder(run: Path, tmp_path: Path):
    shutil.rmtree(run / "densities")
    record = json.loads((run / "config.json").read_text())
    record["config"]["masks"] = str(tmp_path / "masks.npz")
    record["masks"] = {"digest": "0", "values": [0, 1]}
    (run / "config.json").write_text(json.dumps(record))
    said: list[str] = []
    evaluate(run, COLOUR, metrics="frechet", say=said.append)
    assert any(str(tmp_path / "masks.npz") in line for line in said)
    written = (run / "metrics.json").read_text() + write_report(run).read_text()
    assert "no density was fitted" in written
    assert "not compared with the run's masks" in written
    assert str(tmp_path) not in written


def test_latent_diagnostics_equal_closed_forms():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4000, 3, generator=generator) * torch.tensor([0.9, 0.5, 0.0]) + torch.tensor([0.0, 1.0, 0.0])
    logvar = torch.tensor([0.19, 0.25, 1.0]).log().expand(4000, 3)
    found = diagnose_latents(DiagonalGaussian(mean, logvar))
    assert found["inactive_by_mean"] == found["inactive_by_variance"] == 1
    assert found["variance_law"] == pytest.approx([1.0, 0.5, 1.0], abs=0.04)
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"])
    assert found["kl_per_dimension"][2] == pytest.approx(0, abs=1e-6)
    # Variable 2 is N(1, ½): KL = ½ (½ + 1 − 1 − log ½).
    assert found["aggregate_kl_marginal"] == pytest.approx(0.5 * (0.5 + np.log(2)), abs=0.05)
    assert found["total_correlation"] == pytest.approx(0, abs=0.01)
    # Few codes of a perfect aggregate, and too few to tell.
    perfect = [torch.randn(180, 64, generator=generator) for _ in range(20)]
    for variance in (0.0, 0.5):
        noise = torch.full((180, 64), variance).log()
        found = [diagnose_latents(DiagonalGaussian(means * (1 - variance) ** 0.5, noise)) for means in perfect]
        by_chance = np.mean([one["aggregate_kl_by_chance"] for one in found])
        assert variance or by_chance == pytest.approx(64 * 67 / (4 * 180))
        assert by_chance == pytest.approx(np.mean([one["aggregate_kl"] for one in found]), rel=0.25)
    few = diagnose_latents(DiagonalGaussian(perfect[0][:60], torch.full((60, 64), -torch.inf)))
    assert few["aggregate_kl_by_chance"] is None
    tied = DiagonalGaussian(mean[:, :1].repeat(1, 2) / 0.9 * 0.8**0.5, torch.full((4000, 2), 0.2).log())
    # Two variables of variance 1 with covariance 0.8: −½ log(1 − 0.64).
    assert diagnose_latents(tied)["total_correlation"] == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.03)


@pytest.mark.parametrize(
    ("distances", "words"),
    [
        ((10, 80, 150, 90), "decoder limit"),
        ((10, 20, 150, 30), "prior hole"),
        ((10, 20, 150, 120), "density limit"),
        ((10, 20, 150, None), "fit a density"),
        ((10, 9, 8, None), "nothing stands out"),
        (
            (10, 80, 70, 60),
            "The distance from the prior, 70.0, is 10.0 floor + 70.0 decoder − 20.0 density + 10.0 prior",
        ),
        (
            (0.12, 0.11, 14.7, 0.29),
            "The distance from the prior, 14.70, is 0.12 floor − 0.01 decoder + 0.18 density + 14.41 prior",
        ),
    ],
)
def test_the_diagnosis_names_the_largest_part(distances, words):
    latents = {"latent_dim": 8, "inactive_by_mean": 2, "kl": 12.0}
    assert words in diagnosis(latents, *distances)
    collapsed = diagnosis(latents | {"inactive_by_mean": 6}, *distances)
    assert "Collapse: 6 of 8" in collapsed
    assert "doctor" not in collapsed
    assert "splitvae doctor RUN" in diagnosis(latents | {"inactive_by_mean": 8}, *distances)


def test_a_flow_is_judged_on_draws_as_it_was_fitted_and_a_mixture_on_means(run: Path):
    flow, record = fit_density(Run.open(run), "flow", epochs=2, hidden_dim=8)
    assert record["nats_of"] == "draws"
    posterior = encode_rows(Run.open(run).model, Run.open(run).data, Run.open(run).data.splits["train"])
    many = [float(flow.log_prob(posterior.sample()).mean()) for _ in range(20)]
    assert record["nats_per_code"] == pytest.approx(np.mean(many), abs=5 * np.std(many))
    assert abs(float(flow.log_prob(posterior.mean).mean()) - np.mean(many)) > 5 * np.std(many)
    assert fit_density(Run.open(run), "gmm", n_components=2)[1]["nats_of"] == "means"


def test_the_nearest_training_image_of_a_training_image_is_itself(run: Path, monkeypatch):
    cache = Run.open(run).data
    from splitvae.evaluation import nearest

    monkeypatch.setattr(nearest, "CHUNK", 7)  # several chunks compete
    rows = cache.splits["train"][[3, 17, 40]]
    found, distances = nearest_training(cache.images[rows], cache, k=4)
    assert found.shape == (3, 4)
    assert (found[:, 0] == rows).all()
    assert (distances[:, 0] == 0).all()
    images = cache.images[cache.splits["train"]].astype(float) / 255
    by_hand = np.sqrt(((images - images[17]) ** 2).mean(axis=(1, 2, 3)))
    assert distances[1] == pytest.approx(np.sort(by_hand)[:4], abs=1e-6)


def test_a_density_that_is_asked_for_is_never_left_out(run: Path):
    fit_density(Run.open(run), "gmm", split="test", name="sneaky", n_components=2)
    with pytest.raises(InputError, match="the clean protocol has no line for sneaky"):
        evaluate(run, COLOUR, densities=["gmm", "sneaky"], metrics="frechet")
    rows = evaluate(run, COLOUR, densities=["sneaky"], protocol="paper", metrics="frechet")["rows"]
    assert "sneaky" in {row["source"] for row in rows}


def test_mistakes_get_one_line(run: Path, trained: Path, tmp_path: Path, splitvae: Call, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    offline = "--extractor", "efficientnet-lite0"
    other = tmp_path / "other"
    options = TINY | {"data": str(trained / "data.npz"), "batch_size": 8, "precision": "fp32", "quiet": True}
    train(out=other, epochs=1, **options | {"latent_dim": 6})
    shutil.copytree(run / "densities", other / "densities")
    for arguments, words, status in (
        (("evaluate", run, "--extractor", "inception"), "not a known extractor", 2),
        (("evaluate", run, *offline, "--seeds", 0), "seeds ≥ 1", 2),
        (("evaluate", run, *offline, "--n", 1), "n ≥ 2", 2),
        (("evaluate", run, *offline, "--density", "flow"), "has no density 'flow'", 2),
        (("evaluate", run, *offline, "--protocol", "papers"), "Choose from", 2),
        (("evaluate", tmp_path / "nowhere", *offline), "is no directory", 2),
        (("evaluate", other, *offline), "was fitted on codes of 4 variables, the model has 6", 2),
        (("evaluate", run, "--extractor-weights", tmp_path / "w.pth"), "are not a file", 2),
        (("verify", run), "was not evaluated yet", 2),
        (("report", run), "was not evaluated yet", 2),
        (("report", run, "--out", "report.pdf"), "ends in .html", 2),
        (("compare", run, other), "was not evaluated yet", 2),
        (("fit", run, "--density", "gmm", "--epochs", 3), "takes no --epochs", 2),
        (("fit", run, "--name", "normal"), "is a line of every table", 2),
    ):
        found, _, err = splitvae(*arguments)
        assert (found, err.count("\n")) == (status, 1), err
        assert words in err


def test_a_density_of_an_earlier_model_is_not_scored(run: Path, splitvae: Call):
    from safetensors.torch import load_file, save_file

    path = run / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: value + 0.01 if value.is_floating_point() else value for name, value in tensors.items()}, path)
    with pytest.raises(InputError, match="codes of another model"):
        evaluate(run, COLOUR)
    assert evaluating.evaluate(run, COLOUR, densities=[], metrics="frechet")["rows"]


def test_a_changed_source_is_not_scored(run: Path, trained: Path, tmp_path: Path, splitvae: Call):
    moved = tmp_path / "elsewhere.npz"
    shutil.copy(trained / "data.npz", moved)
    with np.load(moved) as file:
        arrays = dict(file)
    record = json.loads((run / "config.json").read_text())
    record["config"]["data"] = str(tmp_path / "gone.npz")
    (run / "config.json").write_text(json.dumps(record))
    found = evaluate(run, COLOUR, data=str(moved), metrics="frechet")
    assert found["rows"]
    arrays["test"] = arrays["test"][::-1]
    np.savez(moved, **arrays)
    for command in (("evaluate", run, "--extractor", "efficientnet-lite0"), ("fit", run)):
        status, _, err = splitvae(*command, "--data", moved)
        assert (status, err.count("\n")) == (2, 1)
        assert "its content differs" in err


def test_the_papers_twin_is_fitted_as_its_clean_one(run: Path, splitvae: Call):
    from splitvae.evaluation.evaluate import open_setting
    from splitvae.evaluation.protocol import sources_of

    setting = open_setting(run, COLOUR)
    names = [source.name for source in sources_of(setting, "paper", ["gmm-per-class"])]
    assert names == ["REC", "normal"]  # no twin was asked for
    twin = next(source for source in sources_of(setting, "paper") if source.name == "gmm-test")
    assert (twin.record["options"], twin.record["split"], twin.record["codes"]) == ({"n_components": 2}, "test", 24)
    smaller = open_setting(run, COLOUR, n=20)
    again = next(source for source in sources_of(smaller, "paper") if source.name == "gmm-test")
    assert again.record["codes"] == 20  # of the reference as it is now
    fit_density(Run.open(run), "gmm", "train", "gmm-test", n_components=2)
    with pytest.raises(InputError, match="is not 'gmm' on test codes"):
        sources_of(setting, "paper", ["gmm"])


def test_a_diverged_model_gets_no_score(run: Path):
    from safetensors.torch import load_file, save_file

    path = run / "model" / "model.safetensors"
    save_file(
        {k: v * float("nan") if "decoder" in k and v.is_floating_point() else v for k, v in load_file(path).items()},
        path,
    )
    with pytest.raises(SplitVAEError, match="diverged"):
        evaluate(run, COLOUR, densities=[])
