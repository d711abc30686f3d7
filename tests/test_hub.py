"""What goes to the hub comes back, with a card that tells what was measured; a fake hub stands in for the network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from conftest import tiny_options
from huggingface_hub import HfApi

from splitvae import GaussianMixture, Run, SplitVAE, evaluate, load_model
from splitvae.densities.fit import fit_density


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that serves as the hub: repositories are folders in it."""
    root = tmp_path / "hub"

    def create_repo(self: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        assert (self.token, exist_ok) == ("hf_secret", True)
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        (root / repo_id / ".private").write_text(str(private))
        return f"https://hub/{repo_id}"

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        if not (root / repo_id).is_dir():
            raise FileNotFoundError(repo_id)
        got = tmp_path / "downloaded"
        got.mkdir(exist_ok=True)
        for name in allow_patterns:
            shutil.copy(root / repo_id / name, got)
        return str(got)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return root


@pytest.fixture
def run(splitvae: Callable, tmp_path: Path, npz: Path) -> Run:
    assert splitvae("train", "--data", npz, "--out", tmp_path / "birds", *tiny_options(), "--quiet")[0] == 0
    return Run.open(tmp_path / "birds")


def test_an_evaluated_run_goes_to_the_hub_and_comes_back(run: Run, hub: Path, splitvae: Callable, tmp_path: Path):
    fit_density(run, "gmm", n_components=2)
    result = evaluate(run, "efficientnet-lite0", n=12, protocol="both", seeds=2, metrics="frechet")
    status, said, _ = splitvae("push", run.path, "me/birds", "--private")
    assert (status, said) == (0, "https://hub/me/birds\n")
    there = hub / "me" / "birds"
    assert (there / ".private").read_text() == "True"
    names = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()} - {".private"}
    assert names == {
        "README.md", "config.json", "model.safetensors", "metrics.json", "samples.png", "densities/gmm.safetensors",
        "densities/gmm-test.safetensors",
    }  # fmt: skip

    for loaded in (SplitVAE.from_pretrained("me/birds"), load_model("me/birds")):
        for name, value in run.model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])
    assert splitvae("sample", there, "--density", "gmm", "--n", 4, "--out", tmp_path / "s.png")[0] == 0

    card = (there / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: splitvae\n")
    assert "a SplitVAE for images of 3×16×16, with 4 latent variables, whose output is a learned blend of 2" in card
    assert 'load_model("me/birds")' in card
    assert str(tmp_path) not in card + (there / "metrics.json").read_text()  # whose folders is nobody's business
    [reconstructed] = [
        row["metrics"]["frechet_distance"]
        for row in result["rows"]
        if (row["protocol"], row["source"], row["output"]) == ("clean", "REC", "x_hat")
    ]
    assert f"| test images (reconstructions) | {reconstructed:.2f} |" in card
    assert "**FD (efficientnet-lite0), clean protocol**: densities fitted on training codes" in card
    assert "**FD (efficientnet-lite0), paper protocol**: mixtures fitted on codes of the test images" in card
    for what in ("seeds 0, 1", result["card"]["signature"], "12 generated and 12 test images", "rank-deficient"):
        assert what in card, what


def test_numbers_of_an_earlier_model_are_not_published(run: Run, hub: Path, splitvae: Callable):
    assert splitvae("push", run.path, "me/birds")[0] == 0
    assert "Not measured." in (hub / "me" / "birds" / "README.md").read_text(encoding="utf-8")
    evaluate(run, "efficientnet-lite0", n=12, metrics="frechet")
    model = run.model
    next(model.parameters()).data.add_(0.1)
    model.save_pretrained(run.path / "model")
    status, _, said = splitvae("push", run.path, "me/birds")
    assert status == 2
    assert "is of an earlier model; evaluate again" in said


def test_what_the_hub_needs_is_told_in_one_line(
    run: Run, hub: Path, splitvae: Callable, monkeypatch: pytest.MonkeyPatch
):
    def refused(self: HfApi, *args: object, **kwargs: object) -> None:
        error = RuntimeError("403 Client Error: Forbidden")
        error.response = SimpleNamespace(status_code=403)  # type: ignore[attr-defined]
        raise error

    def line(*arguments: object) -> str:
        status, _, said = splitvae(*arguments)
        assert status in (1, 2)
        assert said.count("\n") == 1
        return said

    assert "is no name on the hub" in line("push", run.path, "me/bi rds")
    assert "names no owner" in line("push", run.path, "birds")
    assert "is no directory" in line("push", run.path.parent / "nothing", "me/birds")
    monkeypatch.setattr(HfApi, "create_repo", refused)
    assert "(403); check that the token is a whole one and may write there" in line("push", run.path, "me/birds")
    monkeypatch.setattr(HfApi, "create_repo", lambda *arguments, **options: "é".encode("ascii"))
    assert "check that the token is a whole one" in line("push", run.path, "me/birds")
    (run.path / "densities").mkdir()
    (run.path / "densities" / "gmm.safetensors").write_text("cut off")
    assert "truncated or foreign" in line("push", run.path, "me/birds")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "there is no token for the hub; set HF_TOKEN" in line("push", run.path, "me/birds")
    with pytest.raises(Exception, match=r"could not be fetched from the hub \(FileNotFoundError\)"):
        load_model("me/others")


def test_a_density_of_the_hub_is_the_one_that_was_fitted(run: Run, hub: Path):
    density, _ = fit_density(run, "gmm", n_components=2)
    run.push_to_hub("me/birds")
    from splitvae.densities.store import load_density

    loaded, record = load_density("gmm", hub / "me" / "birds", 4)
    assert isinstance(loaded, GaussianMixture)
    assert record["split"] == "train"
    torch.testing.assert_close(loaded.means_, density.means_)
