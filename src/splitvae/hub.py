"""Runs on the Hugging Face hub: model, densities, metrics, and a card with the numbers and how they were measured.

``from_pretrained("user/name")`` and ``load_model("user/name")`` read what is written here.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from splitvae.config import TrainConfig
from splitvae.densities.store import density_names, load_density
from splitvae.errors import InputError, SplitVAEError
from splitvae.evaluation.evaluate import best_density
from splitvae.evaluation.verify import read_metrics
from splitvae.files import write_json
from splitvae.pictures import save_picture, square_grid, to_uint8
from splitvae.reports.columns import symbol
from splitvae.reports.report import matrix
from splitvae.run import Run

SAMPLES = 64
TAGS = ("splitvae", "variational-autoencoder", "vae", "image-generation")
# What a hub's card can say of the training: nothing that names a person's folders.
TOLD = ("model", "network", "latent_dim", "num_components", "beta", "gamma_rule", "epochs", "batch_size", "lr",
        "lr_schedule", "seed")  # fmt: skip
# Told where they are not the paper's: they make it another model.
OF_SPLITS = ("split", "mask_scale", "mask_smoothness", "mask_decisiveness", "mask_balance")


def push_to_hub(run: "Run | str | Path", repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Upload a run's model with a card, densities, metrics and a picture of samples.

    Args:
        run: a run directory with a model; evaluate it first for a card with numbers.
        repo_id: "user/name"; it is made where it does not exist, and its files of the same names are replaced.
        private: whether a repository that is made now is private.
        token: None = ``HF_TOKEN``, or what `hf auth login` has stored.

    Returns:
        the address of the repository.

    Raises:
        InputError: no token, a name that is none, or metrics or a density that are damaged or of an earlier model.
        SplitVAEError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"'{repo_id}' is no name on the hub; pass one such as user/name.") from error
    if "/" not in repo_id:
        raise InputError(f"'{repo_id}' names no owner; pass one such as user/{repo_id}.")
    token = token or get_token()
    if token is None:
        raise InputError("there is no token for the hub; set HF_TOKEN to one that may write, or run: hf auth login")
    run, api = Run.open(run), HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(run, repo_id, Path(folder))
        try:
            address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"splitvae {version('splitvae')}")
        except Exception as error:  # the hub raises its own, httpx's and OS errors alike
            status = getattr(getattr(error, "response", None), "status_code", None)
            remedy = "try again when there is a network"
            if status in (401, 403) or isinstance(error, UnicodeError):  # a header of HTTP is ASCII
                remedy = "check that the token is a whole one and may write there"
            elif isinstance(error, OfflineModeIsEnabled):
                remedy = "HF_HUB_OFFLINE is set"
            raise SplitVAEError(
                f"{repo_id} could not be written on the hub ({status or type(error).__name__}); {remedy}."
            ) from error
    return address


def write_repository(run: Run, repo_id: str, folder: Path) -> None:
    """Write what goes to the hub into ``folder``: config.json, model.safetensors, README.md, samples.png, and where
    there are some metrics.json and densities/."""
    metrics = _metrics(run)
    density = "normal" if metrics is None else best_density(run, metrics)
    (folder / "README.md").write_text(model_card(run, repo_id), encoding="utf-8")
    for name in ("config.json", "model.safetensors"):
        copyfile(run.path / "model" / name, folder / name)
    if metrics is not None:
        write_json(folder / "metrics.json", metrics)
    for name in density_names(run.path):
        load_density(name, run.path, run.model.latent_dim)  # a damaged one, or one of an earlier model, stays here
        (folder / "densities").mkdir(exist_ok=True)
        copyfile(run.path / "densities" / f"{name}.safetensors", folder / "densities" / f"{name}.safetensors")
    source, _ = load_density(density, run.path, run.model.latent_dim)
    samples = run.model.sample(SAMPLES, source, torch.Generator().manual_seed(0))
    save_picture(square_grid(to_uint8(samples)), folder / "samples.png")


def model_card(run: Run, repo_id: str) -> str:
    """The card of a run as Markdown: what it is, how to use it, how it was trained, the numbers with their protocol.

    Raises:
        InputError: the run has no model, or its metrics are of an earlier one.
    """
    model, metrics = run.model, _metrics(run)
    C, H, W = run.image_shape
    data = Path(str(run.record["data"]["source"])).name
    kind = type(model).__name__
    what = f"a {kind} for images of {C}×{H}×{W}, with {model.latent_dim} latent variables"
    if model.num_components > 1:
        what += f", whose output is a learned blend of {model.num_components} images"
    config = run.config.to_dict()
    shown = [name for name in TOLD if run.config.variational or name not in ("beta", "gamma_rule")]
    shown = [name for name in shown if name != "num_components" or model.num_components > 1]
    shown += [name for name in OF_SPLITS if getattr(run.config, name) != getattr(TrainConfig, name)]
    shown += ["guidance", "mask_share", "mask_repeat"] if "guidance" in run.config.split_terms() else []
    density = "normal" if metrics is None else best_density(run, metrics)
    lines = [
        "---", "library_name: splitvae", "pipeline_tag: unconditional-image-generation", "tags:",
        *(f"- {tag}" for tag in TAGS), "---", "",
        f"# {repo_id.split('/')[-1]}", "",
        f"This is {what}, trained on {data} with splitvae {version('splitvae')}. Split VAEs are those of "
        "[arXiv 2202.02738](https://arxiv.org/abs/2202.02738).", "",
        "![64 samples](samples.png)", "",
        f"*64 samples, latents from {_named(density)}.*", "",
        "## Use", "",
        "```python",
        "from splitvae import load_model", "",
        f'model = load_model("{repo_id}")',
        f"images = model.sample(16)                # (16, {C}, {H}, {W}) in [0, 1], from the prior",
        f"codes = model.encode(images).mean        # (16, {model.latent_dim})",
        f"decoded = model.decode(codes)            # .x_hat, .components (16, {model.num_components}, {C}, {H}, {W}), "
        ".weights",
        "```", "",
    ]  # fmt: skip
    if fitted := density_names(run.path):
        lines += [
            f"Densities fitted on its codes: {', '.join(fitted)}. Download the repository, then "
            f"`splitvae sample FOLDER --density {fitted[0]} --out samples.png`.", "",
        ]  # fmt: skip
    lines += ["## Training", "", "| what | value |", "|---|---|"]
    lines += [f"| {name} | {config[name]} |" for name in shown]
    counts = run.record["data"]["counts"]
    lines += [f"| data | {data}: {counts['train']:,} training, {counts['test']:,} test images |"]
    lines += [f"| parameters | {sum(p.numel() for p in model.parameters()):,} |"]
    if "origin" in run.record:
        lines += [f"| first weights | {run.record['origin']['from']} |"]
    lines += ["", "## Numbers", ""]
    lines += ["Not measured."] if metrics is None else _numbers(metrics)
    return "\n".join(lines) + "\n"


def _numbers(metrics: dict[str, Any]) -> list[str]:
    """The tables of an evaluation, one for each protocol, and what the numbers depend on."""
    card, lines = metrics["card"], []
    for protocol in dict.fromkeys(row["protocol"] for row in metrics["rows"]):
        table = matrix(metrics, protocol)
        lines += [f"**{metrics['distance']}, {protocol} protocol**: {card['protocols'][protocol]}.", ""]
        lines += ["| latents from | " + " | ".join(map(symbol, table["outputs"])) + " |"]
        lines += ["|---" * (1 + len(table["outputs"])) + "|"]
        for source, cells in table["cells"].items():
            lines += [f"| {_named(source)} | " + " | ".join(cells.get(o, "–") for o in table["outputs"]) + " |"]
        lines += [""]
    lines += [
        f"Fréchet distances between {card['generated_images']:,} generated and {card['real_images']:,} test images of "
        f"{card['source']}, mean ± standard deviation over seeds {', '.join(map(str, card['seeds']))}; lower is "
        f"better. Real training images in the place of generated ones: {metrics['floor']['frechet_distance']:.2f}.", "",
        f"Extractor {card['extractor']} ({card['features']} features, weights SHA-256 "
        f"{str(card['weights_sha256'])[:12]}), resize: {card['resize']}; {card['quantisation']}; data SHA-256 "
        f"{str(card['data_sha256'])[:12]}, model SHA-256 {card['model_sha256'][:12]}, protocol signature "
        f"{card['signature']}. Only numbers with the same signature may stand in one table; all of them are in "
        "[metrics.json](metrics.json).",
    ]  # fmt: skip
    return lines + [""] + [f"- {note}" for note in metrics["notes"]]


def _metrics(run: Run) -> dict[str, Any] | None:
    """The run's metrics; None = it was not evaluated."""
    if not (run.path / "metrics.json").exists():
        return None
    return read_metrics(run)


def _named(source: str) -> str:
    return {"normal": "the prior", "REC": "test images (reconstructions)"}.get(source, f"the density {source}")
