"""Runs the Keras network for ``environments.Worker``, in TensorFlow's environment.

Arrays travel as ``.npz`` files, images as (N, C, H, W) in [0, 1].
"""

import os
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.keras_network import Network
from benchmarks.serve import serve

threads = int(os.environ.get("BENCH_THREADS", "0"))
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)
now: dict = {}


def channels_last(x: np.ndarray) -> tf.Tensor:
    return tf.constant(x.transpose(0, 2, 3, 1))


def build(image_shape: list[int], latent_dim: int, weights: str | None = None, batch: int = 100, **options) -> dict:
    """Make the network and a batch of noise images; weights from a splitvae state dict."""
    tf.keras.utils.set_random_seed(0)
    network = now["network"] = Network(tuple(image_shape), latent_dim, **options)
    if weights is not None:
        network.load(dict(np.load(weights)))
    C, H, W = image_shape
    now["x"], now["z"] = tf.random.uniform((batch, H, W, C)), tf.random.normal((batch, latent_dim))
    trainable, total = network.counts()
    return {"trainable": trainable, "total": total, "tensorflow": tf.__version__, "keras": keras.__version__}


def timed(what: str) -> float:
    """Seconds of one "step", "forward" pass or "sample" of a batch."""
    network, x, z = now["network"], now["x"], now["z"]
    calls = {
        "step": lambda: network.step(x, z),
        "forward": lambda: network.forward(x, z),
        "sample": lambda: network.decode(z),
    }
    start = time.perf_counter()
    calls[what]().numpy()  # waits for the result
    return time.perf_counter() - start


def train(batches: str) -> list[float]:
    """Losses of the steps over ``x`` (steps, B, C, H, W) and ``noise`` (steps, B, D) of a file."""
    with np.load(batches) as file:
        return [
            float(now["network"].step(channels_last(x), tf.constant(noise)))
            for x, noise in zip(file["x"], file["noise"], strict=True)
        ]


def outputs(images: str, out: str) -> None:
    """Write ``mean``, ``logvar``, and of ``z`` the decoder's output and blend, for ``x`` and ``z`` of a file."""
    network = now["network"]
    with np.load(images) as file:
        mean, logvar = network.encoder(channels_last(file["x"]), training=False)
        maps = network.decoder(tf.constant(file["z"]), training=False)
    first = [v.numpy().transpose(0, 3, 1, 2) for v in (maps, network.blend(maps))]
    np.savez(out, mean=mean.numpy(), logvar=logvar.numpy(), maps=first[0], x_hat=first[1])


if __name__ == "__main__":
    serve({"build": build, "timed": timed, "train": train, "outputs": outputs})
