"""Weights of the official TensorFlow code, as a run: sampled, scored, trained on.

    pip install 'splitvae[keras]'
    python examples/keras_weights.py svae_mnist.h5 [SOURCE]

SOURCE is what the weights were trained on: a folder of images, an .npz, parquet shards; with it the run is scored and
trained for one more epoch. Leaves runs/official and official.png.
"""

import sys
from pathlib import Path

import splitvae
from splitvae.pictures import save_picture, square_grid, to_uint8

file = sys.argv[1]
source = sys.argv[2] if len(sys.argv) > 2 else None

model = splitvae.convert_keras(file, beta=8.0)  # the paper's β for MNIST; weights do not tell it
print(f"{type(model).__name__} of {model.image_shape}, {model.latent_dim} latents, {model.num_components} components")
run = splitvae.adopt(model, "runs/official", data=source, origin=f"Keras, {file}", overwrite=True)
save_picture(square_grid(to_uint8(run.model.sample(64))), Path("official.png"))

if source is not None:
    for row in splitvae.evaluate(run, "efficientnet-lite0", metrics="frechet")["rows"]:
        print(f"{row['source']:8} {row['output']:6} FD {row['metrics']['frechet_distance']:.1f}")
    run = splitvae.train(resume=run, epochs=1, quiet=True, lr=1e-4)
    print(f"after one more epoch: mse {run.summary['mse']:.4f}")
