"""The paper's network in Keras, transcribed layer by layer, as the yardstick of ``python -m benchmarks``.

After section 3.1 and figure 6 of arXiv 2202.02738 and the facts of the official code (batch norm before swish, stem
with stride 2, a dense block with batch norm, one dense layer between latents and embedding, sigmoid on all outputs).
Needs TensorFlow; nothing of splitvae is imported. ``tests/test_benchmarks.py`` holds the two to the same numbers.
"""

import numpy as np
import tensorflow as tf
from keras import Input, Model, layers, ops, optimizers

MOMENTUM, EPS = 0.999, 1e-5


class Network:
    """Encoder, decoder, and the training step.

    Args:
        image_shape: (C, H, W); sides 32 or 64 in the paper.
        latent_dim: D.
        base_channels, num_scales, embedding_dim: as in ``splitvae.SplitVAE``.
        beta: weight of the KL term.
        lr: of Adam.
        xla: compile with XLA.

    Attributes:
        layers: every layer that has weights, under the name that it has in splitvae's network.
        encoder: (B, H, W, C) → mean, logvar (B, D).
        decoder: (B, D) → mask and both images (B, H, W, 1 + 2C), in [0, 1].
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        base_channels: int = 64,
        num_scales: int = 4,
        embedding_dim: int = 512,
        beta: float = 8.0,
        lr: float = 1e-3,
        xla: bool = False,
    ) -> None:
        C, H, W = image_shape
        self.layers: dict[str, layers.Layer] = {}
        self.channels, self.beta = C, beta

        x = Input((H, W, C))
        width = base_channels
        h = self._conv("encoder.stem", width, 2)(x)
        for i in range(num_scales - 1):
            h = self._block(f"encoder.scales.{i}.0.0", h, width)
            width *= 2
            h = self._conv(f"encoder.downsamples.{i}", width, 2)(h)
        h = layers.GlobalAveragePooling2D()(h)
        h = self._dense_block("encoder.dense_block", h, embedding_dim)
        self.encoder = Model(x, [self._dense("mean", latent_dim)(h), self._dense("logvar", latent_dim)(h)])

        z = Input((latent_dim,))
        up = int(np.log2(min(H, W) // 4))
        widths = [min(1024, base_channels * 2**i) for i in reversed(range(up + 1))]
        h = self._dense("embedding", embedding_dim)(z)
        h = self._dense("decoder.dense", H * W // 4**up * widths[0])(h)
        h = layers.Reshape((H // 2**up, W // 2**up, widths[0]))(h)
        for i, width in enumerate(widths[1:]):
            h = self._named(f"decoder.upsamples.{i}", layers.Conv2DTranspose(width, 3, 2, "same"))(h)
            h = self._block(f"decoder.scales.{i}.0.0", h, width)
        self.decoder = Model(z, ops.sigmoid(self._conv("decoder.head", 1 + 2 * C)(h)))

        self.gamma, self.running_mse = tf.Variable(1.0, trainable=False), tf.Variable(1.0, trainable=False)
        self.optimizer = optimizers.Adam(lr, epsilon=1e-7)
        self.optimizer.build(self.trainable)
        self.step = tf.function(self._step, jit_compile=xla)
        self.forward = tf.function(self._forward, jit_compile=xla)
        self.decode = tf.function(lambda z: self.blend(self.decoder(z, training=False)), jit_compile=xla)

    def _named(self, name: str, layer: layers.Layer) -> layers.Layer:
        self.layers[name] = layer
        return layer

    def _conv(self, name: str, channels: int, stride: int = 1) -> layers.Layer:
        return self._named(name, layers.Conv2D(channels, 3, stride, "same"))

    def _dense(self, name: str, width: int) -> layers.Layer:
        return self._named(name, layers.Dense(width))

    def _norm(self, name: str) -> layers.Layer:
        return self._named(name, layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPS))

    def _block(self, name: str, x: object, channels: int) -> object:
        """Twice [batch norm, swish, convolution], and a convolution of the raw input beside it."""
        h = x
        for i in range(2):
            h = ops.silu(self._norm(f"{name}.norms.{i}")(h))
            h = self._conv(f"{name}.convs.{i}", channels)(h)
        return layers.add([h, self._conv(f"{name}.shortcut", channels)(x)])

    def _dense_block(self, name: str, x: object, width: int) -> object:
        h = x
        for i in range(2):
            h = ops.silu(self._norm(f"{name}.norms.{i}")(h))
            h = self._dense(f"{name}.denses.{i}", width)(h)
        return layers.add([h, self._dense(f"{name}.shortcut", width)(x)])

    @property
    def trainable(self) -> list:
        """Variables that Adam moves."""
        return self.encoder.trainable_variables + self.decoder.trainable_variables

    def counts(self) -> tuple[int, int]:
        """(trainable, with batch norm's statistics)."""
        trainable = sum(int(np.prod(v.shape)) for v in self.trainable)
        return trainable, self.encoder.count_params() + self.decoder.count_params()

    def blend(self, out: tf.Tensor) -> tf.Tensor:
        """σ⊙x̂₁ + (1−σ)⊙x̂₂ of the decoder's output."""
        mask, x1, x2 = out[..., :1], out[..., 1 : 1 + self.channels], out[..., 1 + self.channels :]
        return mask * x1 + (1 - mask) * x2

    def _loss(self, x: tf.Tensor, noise: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """SSE/(2γ) + β·KL, sums over pixels and latents, mean over the batch; and the mse."""
        mean, logvar = self.encoder(x, training=training)
        x_hat = self.blend(self.decoder(mean + tf.exp(logvar / 2) * noise, training=training))
        sse = tf.reduce_mean(tf.reduce_sum(tf.square(x - x_hat), axis=[1, 2, 3]))
        kl = 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(logvar) - 1 - logvar, axis=1)
        values = tf.cast(tf.size(x[0]), tf.float32)
        return sse / (2 * self.gamma) + self.beta * tf.reduce_mean(kl), sse / values

    def _forward(self, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return self._loss(x, noise, True)[0]

    def _step(self, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """One step of Adam with the γ of the step before, then γ by its rule: a running mean, clamped."""
        with tf.GradientTape() as tape:
            loss, mse = self._loss(x, noise, True)
        self.optimizer.apply(tape.gradient(loss, self.trainable), self.trainable)
        self.running_mse.assign(0.99 * self.running_mse + 0.01 * mse)
        self.gamma.assign(tf.minimum(self.gamma, self.running_mse))
        return loss

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over weights of a splitvae network with ``padding="tf-same"``: arrays by their names in its state dict.

        Kernels turn from (out, in, k, k), and (in, out, k, k) of transposed ones, to (k, k, …); dense ones are
        transposed; the decoder's first dense layer counts (C, H, W) there and (H, W, C) here.
        """
        for name, layer in self.layers.items():
            weight, bias = state[f"network.{name}.weight"], state[f"network.{name}.bias"]
            if isinstance(layer, layers.BatchNormalization):
                statistics = [state[f"network.{name}.running_{key}"] for key in ("mean", "var")]
                layer.set_weights([weight, bias, *statistics])
                continue
            if name == "decoder.dense":
                start = self._start()
                order = np.arange(len(bias)).reshape(start[2], *start[:2]).transpose(1, 2, 0).ravel()
                weight, bias = weight[order], bias[order]
            layer.set_weights([weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0), bias])

    def _start(self) -> tuple[int, int, int]:
        """(H, W, C) at which the decoder's convolutions begin."""
        [reshape] = [layer for layer in self.decoder.layers if isinstance(layer, layers.Reshape)]
        return tuple(reshape.target_shape)
