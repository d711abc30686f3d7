"""From a configuration to a model, and back, in one place."""

from typing import Any

import torch

from splitvae.config import TrainConfig
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.rae import RAE
from splitvae.models.vae import VAE, SplitVAE


def build_model(config: TrainConfig, image_shape: tuple[int, int, int]) -> Autoencoder:
    """The model of a configuration, with the weights that its seed gives."""
    common: dict[str, Any] = {name: getattr(config, name) for name in sorted(config.network_options())}
    common |= {"image_shape": image_shape, "latent_dim": config.latent_dim, "network": config.network}
    with torch.random.fork_rng(devices=[]):  # the caller's own random numbers are left alone
        torch.default_generator.manual_seed(config.seed)  # and not those of the GPUs
        if not config.variational:
            return RAE(
                regularizer=config.model.partition("-")[2] or "none",  # type: ignore[arg-type]
                embedding_weight=0.0 if config.model == "ae" else config.embedding_weight,
                penalty_weight=config.penalty_weight,
                gradient_penalty=config.gradient_penalty,
                **common,
            )
        common |= {"beta": config.beta, "gamma_rule": config.gamma_rule}
        if config.gamma_init != "first-batch":
            common["gamma_init"] = config.gamma_init
        if config.model == "vae":
            return VAE(**common)
        return SplitVAE(
            num_components=config.num_components,
            mask_scale=config.mask_scale,
            split_terms=config.split_terms(),
            **common,
        )


def config_of(model: Autoencoder) -> TrainConfig:
    """The configuration that ``build_model`` would make this model of; what a model does not say has its default.

    Raises:
        InputError: arguments that no configuration has, such as a β below 0.
    """
    values = {name: value for name, value in model.config.items() if name != "image_shape"}
    if isinstance(model, RAE):
        regularizer = values.pop("regularizer")
        values["model"] = "rae" if regularizer == "none" else f"rae-{regularizer}"
    else:
        values["model"] = "vae" if isinstance(model, VAE) else "splitvae"
    _, H, W = model.image_shape
    return TrainConfig().with_changes(values | {"image_size": f"{H}x{W}"})
