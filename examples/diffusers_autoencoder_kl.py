"""Score an AutoencoderKL of diffusers, split its decoder, and train it on.

    pip install diffusers
    python examples/diffusers_autoencoder_kl.py [EPOCHS]

A small one with random weights stands for AutoencoderKL.from_pretrained(…). Uses scikit-learn's digits, which need no
download. Leaves runs/kl and runs/kl-split.
"""

import sys

import torch
from diffusers import AutoencoderKL

import splitvae

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5

torch.manual_seed(0)
kl = AutoencoderKL(
    in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(16, 32, 32), norm_num_groups=8,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip

# Latents of 2×4×4 are 32 variables here; images in [-1, 1] are recognised.
splitvae.register_network("kl", kl)
common = {"network": "kl", "latent_dim": 32, "beta": 1.0, "epochs": epochs, "overwrite": True, "quiet": True}
run = splitvae.train("digits", out="runs/kl", model="vae", **common)
halves = splitvae.adopt(splitvae.split_model(run.model), "runs/kl-split", data="digits", overwrite=True)
halves = splitvae.train(resume=halves, epochs=epochs, quiet=True)

for each in (run, halves):
    result = splitvae.evaluate(each, "efficientnet-lite0", metrics="frechet")
    print(f"{each.path}: mse {each.summary['mse']:.4f}")
    for row in result["rows"]:
        print(f"  {row['source']:8} {row['output']:6} FD {row['metrics']['frechet_distance']:.1f}")
