"""Train and score a model of pythae through splitvae: bf16, resuming, densities, FID or FD, a report.

    pip install pythae
    python examples/pythae_model.py [EPOCHS]

Uses scikit-learn's digits, which need no download. Leaves runs/pythae with report.html.
"""

import sys

from pythae.models import VAE, VAEConfig

import splitvae
from splitvae.densities.fit import fit_density
from splitvae.reports.report import write_report

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20

# pythae's own networks, or any that were given to it as encoder and decoder. A model that it has trained starts from
# its weights; `splitvae.adopt` scores it as it is.
model = VAE(VAEConfig(input_dim=(1, 16, 16), latent_dim=8))
splitvae.register_network("pythae-vae", model)
options = {"network": "pythae-vae", "model": "vae", "latent_dim": 8, "epochs": epochs, "quiet": True}
run = splitvae.train("digits", out="runs/pythae", overwrite=True, **options)

fit_density(run, "gmm", n_components=10)
result = splitvae.evaluate(run, "efficientnet-lite0", metrics="frechet")
for row in result["rows"]:
    print(f"{row['source']:8} {row['output']:6} FD {row['metrics']['frechet_distance']:.1f}")
print(result["diagnosis"])
print(write_report(run))
