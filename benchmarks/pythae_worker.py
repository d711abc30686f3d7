"""Lets pythae train our network for ``environments.Worker``, in pythae's environment, which sees our torch.

Its VAE gets our encoder and decoder; loader, loss (half the squared error plus KL), Adam and loop are its own.
"""

import os
import time
from importlib.metadata import version

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from benchmarks.serve import serve
from splitvae import SplitVAE

torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
now: dict = {}


class Encoder(BaseEncoder):
    """Our encoder as pythae wants it."""

    def __init__(self, model: SplitVAE) -> None:
        super().__init__()
        self.network, self.latent_dim = model.network, model.latent_dim

    def forward(self, x: torch.Tensor) -> ModelOutput:
        mean, logvar = self.network.encode(x)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):
    """Our decoder as pythae wants it."""

    def __init__(self, model: SplitVAE) -> None:
        super().__init__()
        self.network, self.blend = model.network, model.decode

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.blend(z).x_hat)


def build(image_shape: list[int], latent_dim: int, batch: int, folder: str, **options: object) -> dict:
    """Make the model, noise images for one batch, and pythae's trainer."""
    model = SplitVAE(tuple(image_shape), latent_dim, **options)
    vae = VAE(VAEConfig(tuple(image_shape), latent_dim), Encoder(model), Decoder(model))
    images = torch.from_numpy(np.random.default_rng(0).random((batch, *image_shape), dtype=np.float32))
    config = BaseTrainerConfig(folder, per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=True)
    trainer = now["trainer"] = BaseTrainer(vae, BaseDataset(images, torch.zeros(batch)), training_config=config)
    trainer.prepare_training()
    trainer.model.train()
    return {"trainable": sum(p.numel() for p in vae.parameters()), "pythae": version("pythae")}


def timed(what: str) -> float:
    """Seconds of one "step": an epoch of one batch, loader included."""
    assert what == "step"
    start = time.perf_counter()
    now["trainer"].train_step(1)
    return time.perf_counter() - start


if __name__ == "__main__":
    serve({"build": build, "timed": timed})
