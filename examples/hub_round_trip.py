"""A run on the Hugging Face hub and back: what is uploaded, the card, the same model again.

    python examples/hub_round_trip.py [EPOCHS] [user/name]

Uses scikit-learn's digits, which need no download. Without a name nothing leaves this machine: what would be uploaded
is written to the folder hub. With one it is pushed, which takes a token (HF_TOKEN, or `hf auth login`).
"""

import sys
from pathlib import Path

import torch

import splitvae
from splitvae.densities.fit import fit_density
from splitvae.hub import write_repository

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
name = sys.argv[2] if len(sys.argv) > 2 else None

# 1. A run with a density and numbers: the card shows what was measured, and how.
run = splitvae.train("digits", out="runs/hub", epochs=epochs, overwrite=True, quiet=True)
fit_density(run, "gmm", n_components=10)
splitvae.evaluate(run, "efficientnet-lite0", metrics="frechet")

# 2. To the hub, or to a folder that stands for it.
if name is None:
    name, where = "me/digits", Path("hub/me/digits")
    where.mkdir(parents=True, exist_ok=True)
    write_repository(run, name, where)
    print("would be uploaded:", *sorted(path.name for path in where.iterdir()))
    print((where / "README.md").read_text(encoding="utf-8"))
else:
    print(splitvae.push_to_hub(run, name))
    where = name  # load_model takes a folder or a name on the hub

# 3. Back again: the same numbers.
model = splitvae.load_model(where)
z = torch.randn(4, model.latent_dim)
with torch.no_grad():
    print("the same images:", torch.equal(model.decode(z).x_hat, run.model.decode(z).x_hat))
