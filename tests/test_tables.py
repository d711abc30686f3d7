"""Promises about tables 1, 3 and 4: nothing is run twice, protocols stay apart, lines say what was measured."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, pixels
from filelock import FileLock
from PIL import Image

from splitvae import InputError, Run
from splitvae.presets import PRESETS, resolve
from splitvae.reproduce.claims import jobs_of as jobs_of_claim
from splitvae.reproduce.claims import summarize_claim
from splitvae.reproduce.plan import Planned, carry_out, plan
from splitvae.reproduce.render import lead_notes, markdown, notes_of, rows_of_table, table_plot, tables_of
from splitvae.reproduce.render_claims import claim_notes, claim_plot, claim_rows
from splitvae.reproduce.results import RESULT_KEYS, find_result, other_recipe
from splitvae.reproduce.splits import VARIANTS, summarize_splits
from splitvae.reproduce.summary import _short as short
from splitvae.reproduce.tables import jobs_of, lead, summarize_table

EXTRACTOR = "mnist-classifier"
COMMITTED = Path(__file__).parents[1] / "docs" / "results" / "runs"
ONLY = ["rae-gp", "2s-vae", "svae"]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 + 20 grey images, and the small MNIST recipes made tiny."""
    images = pixels(60, channels=1)
    np.savez(tmp_path / "data.npz", train=images[:40], test=images[40:])
    tiny = TINY | {"image_size": 16, "epochs": 1, "batch_size": 8, "precision": "fp32"}
    for name in ("mnist-small", "mnist-vae-small", "mnist-rae-gp-small", "mnist-2s-vae-small"):
        values = PRESETS[name].values | tiny
        if name == "mnist-rae-gp-small":
            values = {k: v for k, v in values.items() if k not in ("num_scales", "embedding_dim")}
        densities = {"gmm": {"n_components": 2}}
        if "second-stage" in PRESETS[name].densities:
            densities["second-stage"] = {"hidden_dim": 8, "epochs": 1}
        monkeypatch.setitem(PRESETS, name, replace(PRESETS[name], values=values, densities=densities))
    return tmp_path / "data.npz"


def planned(out: Path, results: Path | None = None, only: list[str] = ONLY, seeds: int = 2) -> list[Planned]:
    return plan(jobs_of("table1", "small", only, seeds, 20), out, results or out / "results", EXTRACTOR)


def made(digits: Path, out: Path, results: Path | None = None, only: list[str] = ONLY, seeds: int = 2, **say) -> dict:
    entries, results = planned(out, results, only, seeds), results or out / "results"
    return summarize_table("table1", carry_out(entries, out, results, EXTRACTOR, str(digits), **say)[0])


def test_a_table_is_made_once_and_interrupted_work_goes_on(digits: Path, tmp_path: Path):
    said: list[str] = []
    result = made(digits, tmp_path / "runs", say=said.append)
    assert sum(line.endswith(": training") for line in said) == 6
    files = sorted((tmp_path / "runs" / "results").iterdir())
    assert len(files) == 6
    assert all("seed" in file.name and EXTRACTOR in file.name for file in files)

    # Finished results are taken as they are, without runs.
    said.clear()
    elsewhere = tmp_path / "elsewhere"
    again = made(digits, elsewhere, results=tmp_path / "runs" / "results", say=said.append)
    assert again == result
    assert not said

    # One that is gone is made again from its run, without training, and gives the same numbers.
    before = json.loads(files[0].read_text())
    files[0].unlink()
    assert sorted({entry.state for entry in planned(tmp_path / "runs")}) == ["finished", "trained"]
    made(digits, tmp_path / "runs", say=said.append)
    assert not any(line.endswith(": training") for line in said)
    assert json.loads(files[0].read_text())["rows"] == before["rows"]

    # Training that was interrupted goes on.
    files[0].unlink()
    (tmp_path / "runs" / before["name"] / "summary.json").unlink()
    assert sorted({entry.state for entry in planned(tmp_path / "runs")}) == ["finished", "interrupted"]
    made(digits, tmp_path / "runs", say=said.append)
    assert sum(line.endswith(": training goes on") for line in said) == 1
    assert json.loads(files[0].read_text())["rows"] == before["rows"]


def test_two_processes_at_one_table_make_every_run_once(digits: Path, tmp_path: Path):
    out, only = tmp_path / "runs", ["svae", "rae-gp"]
    other = FileLock(out / ".locks" / "mnist-small-seed0")  # as another process holds it
    (out / ".locks").mkdir(parents=True)
    other.acquire()
    said, said_by_other = list[str](), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if line == "mnist-rae-gp-small-seed0: training":  # what is free is not waited for
            assert said[0] == "mnist-small-seed0: another process is at it"
            other.release()
            made(digits, out, only=["svae"], seeds=1, say=said_by_other.append)

    result = made(digits, out, only=only, seeds=1, say=say)
    assert {line["system"] for line in result["lines"]} == {"svae", "rae-gp"}
    assert "mnist-small-seed0: training" in said_by_other
    assert "mnist-small-seed0: training" not in said
    assert len(list((out / "results").iterdir())) == 2


def test_a_changed_recipe_is_run_again_and_never_mixed_with_the_old(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made(digits, tmp_path / "runs", only=["svae"], seeds=1)
    old = PRESETS["mnist-small"]
    monkeypatch.setitem(PRESETS, "mnist-small", replace(old, values=old.values | {"beta": 1.0}))
    kept = tmp_path / "runs" / "results"
    [entry] = planned(tmp_path / "runs", only=["svae"], seeds=1)
    assert entry.state == "run of another recipe"
    with pytest.raises(InputError, match=r"was trained with beta 8\.0, mnist-small has 1\.0; remove it"):
        made(digits, tmp_path / "runs", only=["svae"], seeds=1)
    assert len(list(kept.iterdir())) == 1


def test_lines_tell_mean_and_spread_and_choose_the_output_on_training_images(digits: Path, tmp_path: Path):
    result = made(digits, tmp_path / "runs")
    outputs = [(line["system"], line["output"]) for line in result["lines"]]
    assert outputs == [("rae-gp", "x_hat"), ("2s-vae", "x_hat")] + [("svae", o) for o in ("x_hat", "x1", "x2", "mix")]
    records = [json.loads(file.read_text()) for file in (tmp_path / "runs" / "results").iterdir()]
    for line in result["lines"]:
        assert line["seeds"] == [0, 1]
        for key, cell in line["cells"].items():
            protocol, source = key.split("/")
            values = [
                row["metrics"]["frechet_distance"]
                for record in sorted(records, key=lambda r: r["seed"])
                for row in record["rows"]
                if record["system"] == line["system"]
                and (row["protocol"], row["source"], row["output"]) == (protocol, source, line["output"])
            ]
            assert cell["values"] == values
            assert cell["mean"] == pytest.approx(np.mean(values))
            assert cell["sd"] == pytest.approx(np.std(values, ddof=1))
    [chosen] = [line for line in result["lines"] if line["system"] == "svae" and line["chosen"]]
    to_train = {
        line["output"]: np.mean(line["cells"]["clean/gmm"]["train"])
        for line in result["lines"]
        if line["system"] == "svae"
    }
    assert chosen["output"] == min(to_train, key=lambda output: to_train[output])
    assert "paper/gmm-test" in chosen["cells"]
    assert "clean/second-stage" in result["lines"][1]["cells"]

    # What people see: every system, the paper's values, and why they are no equals.
    for protocol in ("clean", "paper"):
        headings, rows = rows_of_table(result, protocol)
        assert all(len(row) == len(headings) for row in rows)
        assert rows[0][0] == "RAE-GP"
        assert rows[0][-1] == "22.2 → 11.5"
        assert ("GMM on test codes" in headings) == (protocol == "paper")
    page = markdown("title", tables_of(result), notes_of(result))
    assert "Gaussians in GMM: 2 for RAE-GP, 2S-VAE, SplitVAE" in page
    assert "22.39 M" in page
    assert "no: another extractor (mnist-classifier)" in page
    assert any("floor" in note for note in notes_of(result))
    assert table_plot(result).axes
    assert any(" in fp32; splitvae" in note for note in notes_of(result))
    records[0]["training"]["precision"] = "bf16"
    mixed = summarize_table("table1", records[1:] + records[:1])
    assert any(" in fp32 (5 runs), bf16 (1); splitvae" in note for note in notes_of(mixed))
    assert str(tmp_path) not in json.dumps(records)


def test_a_density_of_other_options_is_fitted_again(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "runs"
    before = made(digits, out, only=["svae"], seeds=1)
    old = PRESETS["mnist-small"]
    monkeypatch.setitem(PRESETS, "mnist-small", replace(old, densities={"gmm": {"n_components": 3}}))
    said: list[str] = []
    after = made(digits, out, only=["svae"], seeds=1, say=said.append)
    assert any("fitting gmm" in line for line in said)
    assert not any(line.endswith(": training") for line in said)
    for key in ("clean/gmm", "paper/gmm-test"):
        assert before["lines"][0]["cells"][key] != after["lines"][0]["cells"][key]
    assert len(list((out / "results").iterdir())) == 2  # the older result stays what it is


def test_results_of_two_protocols_make_no_table(digits: Path, tmp_path: Path):
    made(digits, tmp_path / "runs", only=["svae", "2s-vae"], seeds=1)
    records = [json.loads(file.read_text()) for file in (tmp_path / "runs" / "results").iterdir()]
    records[0]["card"]["signature"] = "another"
    with pytest.raises(InputError, match="measured under 2 protocols"):
        summarize_table("table1", records)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "a damaged result, which you may restore or remove: cannot read"),
        ('{"card":', "not valid JSON"),
        ("[]", "holds no result; move it elsewhere"),
        ('{"card": null}', "holds no result; move it elsewhere"),
        ("rows", "lacks the key 'rows'; restore it, or remove it"),
    ],
)
def test_a_damaged_result_is_named_and_kept(content, words, tmp_path: Path):
    (job,) = jobs_of("table1", "small", ["svae"], 1, 20)
    if content == "rows":  # of this very recipe, and cut by hand
        record = dict.fromkeys(RESULT_KEYS - {"rows"}) | {"format_version": 1, "name": job.name, "recipe": job.recipe}
        content = json.dumps(record | {"card": {"extractor": EXTRACTOR}})
    (tmp_path / f"{job.name}-cpu.json").write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        plan([job], tmp_path / "runs", tmp_path, EXTRACTOR)
    assert f"{job.name}-cpu.json" in str(caught.value)
    assert (tmp_path / f"{job.name}-cpu.json").read_text() == content


def test_a_damaged_density_and_a_lost_model_are_made_again(digits: Path, tmp_path: Path):
    out = tmp_path / "runs"
    before = made(digits, out, only=["svae"], seeds=1)
    shutil.rmtree(out / "results")
    shutil.rmtree(out / "mnist-small-seed0" / "model")
    density = out / "mnist-small-seed0" / "densities" / "gmm.safetensors"
    density.write_bytes(density.read_bytes()[:100])
    assert [entry.state for entry in planned(out, only=["svae"], seeds=1)] == ["interrupted"]
    said: list[str] = []
    after = made(digits, out, only=["svae"], seeds=1, say=said.append)
    assert any("fitting gmm" in line for line in said)
    assert not any(line.endswith(": training") for line in said)
    assert before["lines"][0]["cells"] == after["lines"][0]["cells"]


def test_many_commits_are_counted():
    commits = [f"{i}234567890" for i in range(8)]
    assert short(["a" * 40, None, "b" * 40 + "-dirty", "a" * 40]) == "aaaaaaa, bbbbbbb-dirty"
    assert short(commits) == "0234567, 1234567, 2234567, 3234567, 4234567 and 3 more commits"


def test_one_arithmetic_may_be_asked_for(digits: Path, tmp_path: Path):
    result = made(digits, tmp_path / "runs", only=["svae"], seeds=1, precision="bf16")
    assert result["precision"] == {"bf16": 1}


def test_the_lead_is_a_difference_with_its_standard_error():
    found = lead({"svae": [10.0, 12.0], "rae": [15.0, 19.0], "ae": [30.0, 30.0]}, [11.0, 13.0])
    error = pytest.approx((1 + 4) ** 0.5)
    # Welch by hand: (1 + 4)² / (1² + 4²) = 25/17 degrees of freedom, whose 97.5 % quantile of Student's t is 6.1881.
    interval = pytest.approx([6 - 6.1881 * 5**0.5, 6 + 6.1881 * 5**0.5], rel=1e-4)
    assert found == {
        "own": "svae", "best_other": "rae", "others": 2, "difference": 6.0, "standard_error": error,
        "interval": interval, "x_hat": 5.0,
    }  # fmt: skip
    told = (
        "SplitVAE is ahead by 6.00 (95 % interval -7.84 to 19.84, Welch's over training seeds); by x̂ alone it is ahead"
    )
    (note,) = lead_notes(found, "FD")
    assert told in note
    assert "RAE, best of 2 by these very scores" in note
    assert "not equal" not in note
    (note,) = lead_notes(found | {"gaussians": (20, 10)}, "FD")
    assert "not equal, 20 Gaussians for SplitVAE and 10" in note
    assert lead({"rae": [1.0]}, None) is None
    assert lead({"svae": [1.0], "rae": [1.0, 2.0]}, None)["standard_error"] is None
    # By our own recipe: the paper's is no rival of it, and it is none of the paper's.
    scores = {"svae": [1.5, 2.5], "best": [0.5, 1.5], "vae": [3.5, 4.5]}
    assert lead(scores, None, "best")["difference"] == 3.0
    assert lead(scores, None)["difference"] == 2.0
    assert "SplitVAE-best is ahead by 3.00" in lead_notes(lead(scores, None, "best"), "FD")[0]


def test_a_diverged_system_is_named_and_the_others_are_kept(digits: Path, tmp_path: Path, monkeypatch, splitvae):
    old = PRESETS["mnist-rae-gp-small"]
    monkeypatch.setitem(PRESETS, "mnist-rae-gp-small", replace(old, values=old.values | {"lr": 1e12}))
    options = ["--data", digits, "--out", tmp_path / "runs", "--extractor", EXTRACTOR, "--n", 20, "--seeds", 1]
    status, out, err = splitvae("reproduce", "table1", "--only", "rae-gp,svae", *options)
    assert status == 1
    assert "not finished: mnist-rae-gp-small-seed0" in err
    assert "failed, and in no mean: mnist-rae-gp-small-seed0: the loss diverged" in out
    assert "SplitVAE" in out
    status, _, err = splitvae("reproduce", "table1", "--only", "rae-gp", *options)
    assert (status, "nothing could be finished" in err) == (1, True)
    assert [file.name.split("-seed")[0] for file in (tmp_path / "runs" / "results").iterdir()] == ["mnist-small"]
    status, out, err = splitvae("reproduce", "table1", "--only", "svae", *options)
    assert (status, err) == (0, "")
    assert "1 of 1 are there already" in out
    name = "table1-small-svae-mnist-classifier-1-seeds-20-images"
    assert "mnist-classifier, weights e2e41ee1" in (tmp_path / "runs" / f"{name}.md").read_text()
    assert (tmp_path / "runs" / f"{name}.png").exists()
    with Image.open(tmp_path / "runs" / f"{name}-samples.png") as picture:
        assert picture.height < 100  # one system, one row
        assert np.asarray(picture)[:, 200:].std() > 20
    assert "SplitVAE" in out
    assert Run.open(tmp_path / "runs" / "mnist-small-seed0").summary["epochs"] == 1


def test_wrong_names_are_refused_and_a_dry_run_does_nothing(digits: Path, tmp_path: Path, splitvae):
    out = tmp_path / "runs"
    digits.with_suffix(".txt").write_text("mine")
    for options, words in (
        (["--only", "rae-gb"], "no system 'rae-gb'"),
        (["--only", ""], "no system ''"),
        (["--seeds", "-1"], "at least 1 seed"),
        (["--extractor", "efficient"], "'efficient' is not a known extractor"),
        (["--n", "1"], "n must be at least 2, not 1"),
        (["--n", "0"], "n must be at least 2, not 0"),
        (["--on", "cifar10"], "--on does not apply to table1, whose data set is mnist"),
        (["--results", digits], f"{digits} is a file; choose another --results"),
        (["--out", digits.with_suffix(".txt")], "is a file; choose another --out"),
        (["--extractor", EXTRACTOR, "--device", "gpu"], "there is no device 'gpu' here; choose from: cpu"),
    ):
        where = [] if "--out" in options else ["--out", out]
        status, _, err = splitvae("reproduce", "table1", *where, *options)
        assert status == 2
        assert words in err
        assert len(err.strip().splitlines()) == 1
    status, _, err = splitvae("reproduce", "latents", "--out", out, "--only", "rae-gp")
    assert status == 2
    assert "--only does not apply to latents" in err
    for options in (["--dry-run"], ["--on", "mnist"], ["--scale", "paper"]):
        status, _, err = splitvae("reproduce", "table2", "--out", out, *options)
        assert status == 2
        assert f"{options[0]} does not apply to table2" in err
    status, printed, _ = splitvae("reproduce", "table1", "--out", out, "--dry-run", "--only", "svae", "--seeds", 1)
    assert status == 0
    assert "mnist-small-seed0: missing; epochs 1, splitvae on split-vae" in printed
    assert not out.exists()


def test_claims_take_the_tables_runs_and_their_own(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("splitvae.reproduce.claims.LATENTS", {"mnist": (2, 4)})
    monkeypatch.setattr("splitvae.reproduce.claims.MIXTURES", (1, 2))
    values = PRESETS["mnist-small"].values | {"model": "vae"}
    monkeypatch.setitem(PRESETS, "mnist-vae-small", replace(PRESETS["mnist-small"], values=values))
    out = tmp_path / "runs"
    made(digits, out, only=["svae"], seeds=1)
    (of_table,) = jobs_of("table1", only=["svae"], seeds=1, n=20)
    own = PRESETS[of_table.preset].densities["gmm"]["n_components"]
    served = find_result(replace(of_table, mixtures=(own,)), out / "results", EXTRACTOR)
    assert {row["source"] for row in served["rows"] if row["protocol"] == "clean"} == {"REC", "normal", f"gmm-{own}"}
    assert find_result(replace(of_table, mixtures=(own, own + 1)), out / "results", EXTRACTOR) is None
    said: list[str] = []

    def claim(name: str, **options: object) -> dict:
        entries = plan(jobs_of_claim(name, "mnist", n=20, **options), out, out / "results", EXTRACTOR)
        found, _ = carry_out(entries, out, out / "results", EXTRACTOR, str(digits), say=said.append)
        return summarize_claim(name, found, options.get("tuning"))

    components = claim("components", only=["svae"], seeds=1)
    assert not any(line.endswith(": training") for line in said)  # the run of the table serves
    assert set(components["lines"][0]["cells"]) == {"REC", "normal", "gmm-1", "gmm-2"}
    latents = claim("latents", seeds=1)
    assert sum(line.endswith(": training") for line in said) == 3  # SplitVAE with 4 latents is the table's own
    assert [(line["system"], line["latent_dim"]) for line in latents["lines"]] == [
        ("svae", 2), ("svae", 4), ("vae", 2), ("vae", 4),
    ]  # fmt: skip
    assert all(0 <= line["cells"]["inactive"]["mean"] <= line["latent_dim"] for line in latents["lines"])
    tuning = claim("tuning", only=["svae", "2s-vae"], seeds=1)
    trials = [(line["system"], line["changes"]) for line in tuning["lines"]]
    found = [(system, changes.get("beta", 0)) for system, changes in trials if "lr" not in changes]
    assert found == [("2s-vae", 0.25), ("2s-vae", 0), ("2s-vae", 4.0), ("svae", 2.0), ("svae", 0), ("svae", 32.0)]
    assert len(trials) == 10
    assert "second-stage" in tuning["lines"][0]["cells"]
    for system in ("svae", "2s-vae"):
        own = [line for line in tuning["lines"] if line["system"] == system]
        (best,) = [line for line in own if line["chosen"]]
        assert best["to_train"] <= 1.01 * min(line["to_train"] for line in own)
        assert best["cells"][best["density"]]["mean"] == best["to_train"]  # cells are distances to training images
    assert any("TRAINING" in note for note in claim_notes(tuning))
    entries = plan(jobs_of_claim("tuning", "mnist", n=20, only=["svae"], seeds=1), out, out / "results", EXTRACTOR)
    alike = [copy.deepcopy(entry.result) for entry in entries if entry.result is not None]
    for result in alike:  # a change must gain something
        for row in result["rows"]:
            row["metrics"]["frechet_distance_train"] = 5.0 - 0.01 * bool(result["changes"])
    assert [line["changes"] for line in summarize_claim("tuning", alike)["lines"] if line["chosen"]] == [{}]
    alike[3]["rows"][-1]["metrics"]["frechet_distance_train"] = 4.9
    assert [line["changes"] for line in summarize_claim("tuning", alike)["lines"] if line["chosen"]] == [
        alike[3]["changes"]
    ]
    (prior,) = [row for row in alike[1]["rows"] if (row["source"], row["output"]) == ("normal", "x_hat")]
    prior["metrics"]["frechet_distance_train"] = 4.8  # the prior is chosen where it is nearer than what was fitted
    (chosen,) = [line for line in summarize_claim("tuning", alike)["lines"] if line["chosen"]]
    assert (chosen["changes"], chosen["density"]) == (alike[1]["changes"], "normal")
    for row in alike[1]["rows"]:
        row["metrics"]["frechet_distance_train"] = 4.8  # and not where all are alike, as of a model that is stuck
    (chosen,) = [line for line in summarize_claim("tuning", alike)["lines"] if line["chosen"]]
    assert (chosen["changes"], chosen["density"] == "normal") == (alike[1]["changes"], False)

    # Each by its best trial, with other seeds than the one that it was chosen by.
    said.clear()
    tuned = claim("tuned", only=["svae", "2s-vae"], seeds=2, tuning=tuning)
    assert sum(line.endswith(": training") for line in said) == 4
    assert {seed for line in tuned["lines"] for seed in line["seeds"]} == {1, 2}
    best = {line["system"]: line["changes"] for line in tuning["lines"] if line["chosen"]}
    assert {line["system"]: line["changes"] for line in tuned["lines"]} == best
    chosen = {line["system"]: (line["output"], line["density"]) for line in tuning["lines"] if line["chosen"]}
    assert {line["system"]: (line["output"], line["density"]) for line in tuned["lines"]} == chosen
    assert not any("clean, " in line for line in said)  # distances to test images are in the table alone
    assert not any("only the seeds" in note for note in claim_notes(tuned))
    lines = [line | {"seeds": [2]} if line["system"] == "svae" else line for line in tuned["lines"]]
    assert any("SplitVAE, " in n and n.endswith("only the seeds 2") for n in claim_notes(tuned | {"lines": lines}))
    assert all(len(line["score"]) == 2 for line in tuned["lines"])
    with pytest.raises(InputError, match="pass the summary of a tuning"):
        jobs_of_claim("tuned", "mnist", n=20)
    lost = tuning | {"lines": [line for line in tuning["lines"] if line["system"] != "svae"]}  # its trials failed
    jobs = jobs_of_claim("tuned", "mnist", n=20, only=["svae", "2s-vae"], tuning=lost)
    assert {job.system for job in jobs} == {"2s-vae"}
    (told,) = [note for note in claim_notes(tuned) if "the best other, 2S-VAE, and SplitVAE" in note]
    assert "95 % interval" in told
    assert any("of so many candidates: 15 for 2S-VAE; 40 for SplitVAE" in note for note in claim_notes(tuning))
    for result in (components, latents, tuning, tuned):
        headings, rows = claim_rows(result)
        assert all(len(row) == len(headings) for row in rows)
        assert claim_plot(result).axes
        assert any("training codes" in note for note in claim_notes(result))
    with pytest.raises(InputError, match="'latent' is unknown"):
        jobs_of_claim("latent", "mnist")


def test_others_take_of_our_recipe_what_they_can():
    assert "best" not in {job.system for job in jobs_of("table1")}  # the table is the paper's
    systems = [job.system for job in jobs_of_claim("best", "mnist", seeds=1)]
    assert systems == ["best", *(job.system for job in jobs_of("table1", seeds=1) if job.system != "svae")]

    jobs = jobs_of_claim("best", "cifar10", only=["best", "vae", "beta-vae", "rae-l2"], seeds=1)
    own, _, beta_vae, rae = (job.config for job in jobs)
    assert {job.seed for job in jobs} == {1}  # seed 0 is the one that the recipe was found with
    assert own == resolve("cifar10-best-small", seed=1)
    for data in ("mnist", "cifar10", "celeba"):
        for scale in ("small", "paper"):  # K = 1 differs in nothing but K
            best, vae = (job.config for job in jobs_of_claim("best", data, scale, ["best", "vae"], 1))
            assert replace(vae, model="splitvae", num_components=best.num_components) == best
    assert (beta_vae.network, beta_vae.lr, beta_vae.beta, beta_vae.gamma_rule) == ("rae", own.lr, 4.0, "fixed")
    (ae,) = (job.config for job in jobs_of_claim("best", "mnist", only=["ae"], seeds=1))
    assert (ae.latent_dim, ae.base_channels) == (32, 13)  # our latents at our number of parameters
    (paper,) = jobs_of_claim("best", "mnist", only=["svae"], seeds=1)
    assert not paper.changes
    assert (rae.lr, rae.warmup_steps) == (own.lr, own.warmup_steps)
    assert rae == resolve("cifar10-rae-l2-small", seed=1, lr=own.lr, warmup_steps=own.warmup_steps)


def test_our_recipe_stands_beside_the_others_with_what_they_take_of_it(digits: Path, tmp_path: Path, monkeypatch):
    values = PRESETS["mnist-rae-gp-small"].values | {"model": "splitvae", "num_components": 2, "lr": 2e-3}
    values = {name: value for name, value in values.items() if name not in ("embedding_weight", "penalty_weight")}
    monkeypatch.setitem(PRESETS, "mnist-best-small", replace(PRESETS["mnist-rae-gp-small"], values=values))
    out = tmp_path / "runs"
    entries = plan(jobs_of_claim("best", "mnist", n=20, only=["best", "rae-gp"]), out, out / "results", EXTRACTOR)
    result = summarize_claim("best", carry_out(entries, out, out / "results", EXTRACTOR, str(digits))[0])
    assert [line["changes"] for line in result["lines"]] == [{"lr": 2e-3}, {}]
    assert result["lead"]["own"] == "best"
    assert any("SplitVAE-best is" in note for note in claim_notes(result))
    assert claim_rows(result)[1][0][:3] == ["RAE-GP", "lr 0.002", "x̂"]
    (best,) = [line for line in result["lines"] if line["system"] == "best"]
    twin = result | {"lead_of_split": lead({"best": best["score"], "vae": [9.0, 9.5, 10.0]}, None, "best")}
    assert any("the best other, VAE (SplitVAE, K = 1), and SplitVAE-best" in note for note in claim_notes(twin))
    assert claim_plot(result).axes


def test_results_of_other_data_weights_or_defaults_are_not_taken(digits: Path, tmp_path: Path, splitvae):
    out = tmp_path / "runs"
    options = ["--out", out, "--extractor", EXTRACTOR, "--n", 20, "--seeds", 1, "--only", "svae"]
    assert splitvae("reproduce", "table1", "--data", digits, *options)[0] == 0
    np.savez(tmp_path / "other.npz", train=pixels(40, channels=1)[:30], test=pixels(60, channels=1)[40:])
    for wrong, words in (
        (["--data", tmp_path / "other.npz"], "holds something else than the results that are there"),
        (["--data", tmp_path / "nothing"], "nothing"),
        (["--data", digits, "--extractor-weights", tmp_path / "nothing"], "are not a file"),
    ):
        status, _, err = splitvae("reproduce", "table1", *wrong, *options)
        assert (status, words in err) == (2, True), err
    job, own = jobs_of("table1", "small", ["svae"], 1, 20)[0], Run.open(out / "mnist-small-seed0")
    assert other_recipe(job, own) is None
    for change in (("batch_size", 16), ("accumulate", 2), ("sync_batch_norm", False), ("beta", 1.0)):
        assert other_recipe(replace(job, changes=(change,)), own) == change[0]
    assert other_recipe(replace(job, changes=(("batch_size", 400),)), own) is None  # more than there are: all of them
    # A default that changes is in no hash, because the recipe does not name it.
    assert find_result(job, out / "results", EXTRACTOR) is not None
    (file,) = (out / "results").iterdir()
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"config": result["config"] | {"padding": "tf-same"}}))
    assert find_result(job, out / "results", EXTRACTOR) is None
    assert splitvae("reproduce", "table1", "--data", digits, *options)[0] == 0
    before, after = sorted((out / "results").iterdir(), key=lambda path: len(path.name))
    assert json.loads(before.read_text())["config"]["padding"] == "tf-same"  # what was measured under it stays
    assert json.loads(after.read_text())["config"]["padding"] == "torch"


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="not a checkout")
def test_committed_results_are_found_by_the_command_that_made_them(splitvae, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("splitvae.commands.reproducing.RESULTS", COMMITTED)
    options = ["--scale", "small", "--extractor", EXTRACTOR, "--out", tmp_path / "runs", "--dry-run"]
    status, out, err = splitvae("reproduce", "table1", *options)
    assert (status, err) == (0, "")
    assert out.count(": finished; ") == 33
    assert "0 of 33 to be made" in out
    status, out, err = splitvae("reproduce", "table1", "--finished", "--seeds", 4, *options[:-1])
    assert (status, err) == (0, "")
    assert "not made yet: mnist-rae-gp-small-seed3, mnist-rae-l2-small-seed3" in out
    page = (tmp_path / "runs" / "table1-small-mnist-classifier-4-seeds.md").read_text()
    kept = (COMMITTED.parent / "table1-small" / "mnist-classifier.md").read_text()
    rows = [line for line in kept.splitlines() if line.startswith("| ")]
    assert rows  # the page that is committed is what the committed results say
    assert all(row in page for row in rows)
    status, _, err = splitvae("reproduce", "table3", "--finished", *options[:-1])
    assert (status, "nothing is finished" in err) == (2, True)


def test_splits_compare_variants_of_one_recipe(digits: Path, tmp_path: Path, splitvae):
    options = ["--data", digits, "--out", tmp_path / "runs", "--extractor", EXTRACTOR, "--n", 20, "--seeds", 2]
    status, out, err = splitvae("reproduce", "splits", "--only", "K = 1,K = 3,semantic,balanced masks", *options)
    assert (status, err) == (0, "")
    assert "smoothness" in out
    name = "splits-mnist-small-k-1-k-3-semantic-balanced-masks-mnist-classifier-2-seeds-20-images"
    assert (tmp_path / "runs" / f"{name}.png").exists()
    assert "do not compare" not in out  # which is said of the paper's protocol
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "results").iterdir()]
    found = summarize_splits(results)
    lines = {line["variant"]: line for line in found["lines"]}
    assert set(lines) == {"K = 1", "K = 3", "semantic", "balanced masks"}
    assert set(lines["K = 1"]["cells"]) == {"REC", "x_hat", "mse", "inactive"}
    assert {"x1", "x2", "x3", "mix", "smoothness"} <= set(lines["K = 3"]["cells"])
    assert all(len(line["cells"]["x_hat"]["values"]) == 2 for line in lines.values())
    assert {result["config"]["mask_scale"] for result in results if result["changes"] == {"split": "semantic"}} == {4}
    assert all("," not in name for name in VARIANTS)  # --only has commas between names
    assert splitvae("reproduce", "splits", "--only", "K = 99", *options)[2].startswith(
        "splitvae: 'K = 99' is no variant"
    )
