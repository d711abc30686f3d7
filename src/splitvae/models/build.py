"""From a configuration to a model, in one place."""

import torch

from splitvae.config import TrainConfig
from splitvae.models.vae import VAE, SplitVAE


def build_model(config: TrainConfig, image_shape: tuple[int, int, int]) -> SplitVAE:
    """The model of a configuration, with the weights that its seed gives."""
    network = {
        name: getattr(config, name)
        for name in (
            "latent_dim", "num_components", "base_channels", "num_scales", "scale_blocks", "blocks_per_scale",
            "depth_per_block", "embedding_dim", "padding", "batch_norm_momentum", "beta", "gamma_rule",
        )
    }  # fmt: skip
    if config.gamma_init != "first-batch":
        network["gamma_init"] = config.gamma_init
    with torch.random.fork_rng(devices=[]):  # the caller's own random numbers are left alone
        torch.manual_seed(config.seed)
        if config.model == "vae":
            del network["num_components"]
            return VAE(image_shape, **network)
        return SplitVAE(image_shape, **network)
