"""Generate images from an exported model with onnxruntime alone: no PyTorch, no splitvae.

    splitvae export runs/digits --format onnx
    python examples/onnx_decode.py runs/digits/export samples.png

Needs numpy, onnxruntime and pillow.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

folder, out = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{folder}/decode.onnx", providers=["CPUExecutionProvider"])
_, latent_dim = session.get_inputs()[0].shape

z = np.random.default_rng(0).standard_normal((8, latent_dim)).astype(np.float32)
x_hat, components, weights = session.run(["x_hat", "components", "weights"], {"z": z})
print("x_hat", x_hat.shape, "components", components.shape, "weights", weights.shape)

# Rows: the mask σ and the components that it blends (where there are some), then the blend x̂.
rows = [x_hat]
if components.shape[1] > 1:
    rows = [np.broadcast_to(weights[:, 0], x_hat.shape), *components.transpose(1, 0, 2, 3, 4), x_hat]
grid = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)  # (C, rows·H, 8·W)
pixels = (grid.clip(0, 1) * 255).round().astype(np.uint8)
Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out)
