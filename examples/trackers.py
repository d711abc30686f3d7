"""Follow a training in TensorBoard, Weights & Biases or MLflow.

    pip install 'splitvae[tensorboard]'
    python examples/trackers.py [tensorboard|wandb|mlflow] [EPOCHS]

Uses scikit-learn's digits, which need no download. wandb writes to the folder wandb, without an account; mlflow needs a
server in MLFLOW_TRACKING_URI. The command's option is --tracker.
"""

import os
import sys

import splitvae

tracker = sys.argv[1] if len(sys.argv) > 1 else "tensorboard"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10

os.environ.setdefault("WANDB_MODE", "offline")
run = splitvae.train("digits", out="runs/tracked", epochs=epochs, tracker=tracker, overwrite=True)

*_, last = run.log()  # what the tracker got as well, a line each time
print({name: value for name, value in last.items() if name in ("step", "loss", "mse", "kl", "gamma", "nll")})
if tracker == "tensorboard":
    print(f"look at it: tensorboard --logdir {run.path}")
