"""Commands that fit densities on the codes of a run: fit."""

from pathlib import Path
from typing import Any, Literal

from splitvae.commands.app import app
from splitvae.errors import InputError

MIXTURE = ("n_components", "covariance", "max_iter")
TRAINED = ("epochs", "batch_size", "lr", "hidden_dim")
TAKES = {
    "gmm": MIXTURE,
    "gmm-per-class": MIXTURE,
    "second-stage": (*TRAINED, "gamma_rule", "gamma_noise", "match_variance", "halve_every"),
    "flow": TRAINED,
}


@app.command(
    help_epilogue="Example: splitvae fit runs/digits --density gmm --n-components 20\n\n"
    "Example: splitvae fit runs/digits --density second-stage --epochs 100 --lr 1e-3"
)
def fit(
    run: Path,
    *,
    density: Literal["gmm", "gmm-per-class", "second-stage", "flow"] = "gmm",
    split: Literal["train", "test"] = "train",
    name: str | None = None,
    seed: int = 0,
    device: str | None = None,
    data: str | None = None,
    n_components: int | None = None,
    covariance: Literal["full", "diag"] | None = None,
    max_iter: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    hidden_dim: int | None = None,
    halve_every: int | None = None,
    gamma_rule: Literal["learned", "clamped-ema"] | None = None,
    gamma_noise: bool | None = None,
    match_variance: bool | None = None,
) -> None:
    """Fit a density on the run's codes, from which `splitvae sample --density` then draws.

    Args:
        run: A run directory.
        density: gmm, a mixture of Gaussians; gmm-per-class, one mixture per label, for samples of a class;
            second-stage, a second VAE on the codes (Dai & Wipf 2019); flow, a masked autoregressive flow.
        split: Whose codes. "test" is the paper's protocol, which fits on the images that it is scored against.
        name: Under which it is kept in densities/; the default is the value of --density, with -test after it for the
            test split.
        seed: Of everything random in the fit.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
        n_components: Gaussians in the mixture (default: the paper's number for the preset, else 10), or in each
            class's (default 1).
        covariance: full (default), or diag for diagonal covariances.
        max_iter: The most iterations of EM (default 100; the paper's code: 200).
        epochs: Of a second stage (default: the preset's, else 800 as Dai & Wipf) or a flow.
        batch_size: Codes per step of a second stage or a flow.
        lr: Learning rate of a second stage or a flow.
        hidden_dim: Width of the hidden layers of a second stage (default 1024) or a flow.
        halve_every: Epochs after which a second stage's learning rate is halved (default 300).
        gamma_rule: How a second stage finds its decoder's variance: learned (Dai & Wipf, default), or clamped-ema
            (Asperti & Trentin).
        gamma_noise: Whether samples of a second stage get noise of that variance (Dai & Wipf do, Asperti & Trentin
            do not).
        match_variance: Whether samples of a second stage are scaled to the variance of the codes (Asperti & Trentin).
    """
    given: dict[str, Any] = {
        "n_components": n_components, "covariance": covariance, "max_iter": max_iter, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "hidden_dim": hidden_dim, "halve_every": halve_every,
        "gamma_rule": gamma_rule, "gamma_noise": gamma_noise, "match_variance": match_variance,
    }  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    if wrong := [key for key in options if key not in TAKES[density]]:
        takes = ", ".join(f"--{key.replace('_', '-')}" for key in TAKES[density])
        raise InputError(f"--density {density} takes no --{wrong[0].replace('_', '-')}; it takes {takes}.")
    if "covariance" in options:
        options["covariance_type"] = options.pop("covariance")
    from rich.console import Console
    from rich.progress import Progress

    from splitvae.densities.fit import fit_density
    from splitvae.run import Run

    console = Console(highlight=False, markup=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("fitting", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        opened = Run.open(run).at(data)
        _, record = fit_density(opened, density, split, name, seed, progress, device, **options)
    console.print(
        f"{record['name']}: {record['class']} on {record['codes']:,} {split} codes in {record['seconds']:.0f} s"
        + "".join(f", {key} {value}" for key, value in record["options"].items())
        + (f"; {record['nats_per_code']:.2f} nats per code ({record['nats_of']})" if "nats_of" in record else "")
        + (f"; note: {opened.going_on}" if opened.going_on else ""),
        soft_wrap=True,
    )
