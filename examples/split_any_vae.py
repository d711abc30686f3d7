"""Split a VAE of your own: train a pair of plain modules, split its trained decoder, train on, compare.

    python examples/split_any_vae.py [EPOCHS]

Uses scikit-learn's digits, which need no download. Leaves runs/own-vae and runs/own-split, each with report and
pictures, and runs/own-split.png: masks, components and their blend.
"""

import sys

import torch
from torch import Tensor, nn

import splitvae

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20


class Encoder(nn.Module):
    """Images (B, 1, 16, 16) in [0, 1] → mean and logvar (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 4 * 4, 16),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layers(x).chunk(2, dim=1)


decoder = nn.Sequential(
    nn.Linear(8, 64 * 4 * 4), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
    nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(),
    nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Sigmoid(),
)  # fmt: skip

# 1. Your modules by a name, through the training loop and the evaluation.
splitvae.register_network("own", (Encoder(), decoder))
common = {"network": "own", "latent_dim": 8, "epochs": epochs, "overwrite": True, "quiet": True}
vae = splitvae.train("digits", out="runs/own-vae", model="vae", **common)

# 2. Its trained decoder, split: the same images at first.
halves = splitvae.split_model(vae.model)
z = torch.randn(100, 8)
with torch.no_grad():
    change = (halves.decode(z).x_hat - vae.model.decode(z).x_hat).abs().max()
print(f"splitting changed no pixel by more than {change:.1e}")

# 3. Train on from there; the components part.
run = splitvae.adopt(halves, "runs/own-split", data="digits", overwrite=True, lr=1e-3)
run = splitvae.train(resume=run, epochs=epochs, quiet=True)
with torch.no_grad():
    components = run.model.decode(z).components
print(f"components now differ by {(components[:, 0] - components[:, 1]).abs().mean():.3f} on average")

for each in (vae, run):
    result = splitvae.evaluate(each, "efficientnet-lite0", metrics="frechet")
    for row in result["rows"]:
        print(f"{each.path}: {row['source']:6} {row['output']:5} FD {row['metrics']['frechet_distance']:.1f}")

# A split decoder without the rest of splitvae, for a training loop of your own:
split_decoder = splitvae.split(decoder, z)
x_hat, components, weights = split_decoder(z)  # (100, 1, 16, 16), (100, 2, 1, 16, 16), (100, 2, 1, 16, 16)
