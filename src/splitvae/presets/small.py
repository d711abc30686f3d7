"""The same systems for two cores and about five minutes of training, made comparable.

Equal for all systems on a data set: images seen, batch, cosine rate, batch norm and γ₀ for short runs, Gaussians in
the mixture, and the number of parameters within 5 % of SplitVAE's. Their own stay: network, objective with its
coefficients, latents as far as they fit. Nothing was tuned for any of them unless ``docs/results/LOG.md`` says so for
all.
"""

from typing import Any

from splitvae.presets.preset import Preset
from splitvae.presets.split_vae import SPLIT_VAE
from splitvae.presets.systems import OTHERS, SYSTEMS, preset_name

# What a short run needs instead of the recipes of hundreds of epochs.
SHORT: dict[str, Any] = {
    "batch_size": 100, "lr": 1e-3, "lr_schedule": "cosine", "batch_norm_momentum": 0.05,
}  # fmt: skip
EPOCHS = {"mnist": 2, "fashion-mnist": 2, "cifar10": 2, "celeba": 2}

# Sizes by network and data set, chosen so that parameters with batch-norm statistics agree.
_RAE = {"mnist": {"base_channels": 16}, "cifar10": {"base_channels": 14}, "celeba": {"base_channels": 14}}
_SPLIT = {
    "mnist": {"base_channels": 12, "embedding_dim": 108},
    "cifar10": {"base_channels": 14, "embedding_dim": 152},
    "celeba": {"base_channels": 10, "embedding_dim": 152},
}
_RESNET = {
    "mnist": {"base_channels": 9, "embedding_dim": 204},
    "cifar10": {"base_channels": 11, "embedding_dim": 308},
    "celeba": {"base_channels": 7, "embedding_dim": 256},
}
_INFOGAN = {
    "mnist": {"base_channels": 16, "embedding_dim": 108},
    "cifar10": {"base_channels": 16, "embedding_dim": 168},
    "celeba": {"base_channels": 16, "embedding_dim": 56},
}
SIZES: dict[str, dict[str, dict[str, int]]] = {
    system: _RAE if system in ("rae-gp", "rae-l2", "rae-sn", "rae", "ae") else _SPLIT
    for system in ("rae-gp", "rae-l2", "rae-sn", "rae", "ae", "svae", "vae", "beta-vae")
} | {"2s-vae": _RESNET, "balanced-2s-vae": _RESNET, "2s-vae-infogan": _INFOGAN}
_LATENTS = {"rae": {"cifar10": 64}, "split-vae": {"cifar10": 100, "celeba": 100}}

# A second stage of 2,400 steps or so; it counts no parameters in the paper's tables either.
_SECOND_STAGE = {"hidden_dim": 256, "epochs": 40, "batch_size": 1000, "lr": 1e-3, "halve_every": 15, "gamma_lr": 10.0}


def _small(data: str, system: str) -> Preset:
    name = preset_name(data, system)
    paper = (SPLIT_VAE | OTHERS)[name]
    kind = "mnist" if data == "fashion-mnist" else data
    values = dict(paper.values) | SHORT | {"epochs": EPOCHS[data]} | SIZES[system][kind]
    if system in ("2s-vae", "balanced-2s-vae"):  # the paper's counts are of three different networks
        values |= {"network": "resnet", "num_scales": 3, "latent_dim": 64}
    values["latent_dim"] = _LATENTS.get(values.get("network", "split-vae"), {}).get(kind, values["latent_dim"])
    if values.get("gamma_rule", "running-min") != "fixed":
        values["gamma_init"] = "first-batch"
    if values.get("gamma_rule") == "learned":
        values["gamma_lr"] = 10.0  # by the rate itself log √γ could fall by 0.6 in 1,200 steps, the mse falls to a 25th
    # As many Gaussians for all: their number moves MNIST's scores more than the system does (`reproduce components`).
    densities = dict(paper.densities) | {"gmm": SPLIT_VAE[data].densities["gmm"]}
    if "second-stage" in densities:
        densities["second-stage"] = densities["second-stage"] | _SECOND_STAGE
    scores = " Not measured." if data == "fashion-mnist" else ""  # of the others `splitvae info` tells them
    card = (
        f"{SYSTEMS[system].row} on {data} at small scale, to be compared with the other …-small presets: equal images "
        f"seen, parameters within 5 %, same rate.{scores} Run: splitvae train {name}-small "
        f"--out runs/{name}-small"
    )
    return Preset(values, card, paper.shape, densities, paper.images)


SMALL: dict[str, Preset] = {
    preset_name(data, system, small=True): _small(data, system) for data in EPOCHS for system in SIZES
}
