"""SplitVAE as a scikit-learn estimator: find digits that do not belong, and classify codes in a pipeline.

    python examples/sklearn_anomalies.py [EPOCHS]

Uses scikit-learn's digits, rows of 64 values. Leaves anomalies.png: the most unusual rows, and what the model makes of
them.
"""

import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from splitvae import SplitVAEEstimator

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
X, y = load_digits(return_X_y=True)

# Trained on zeros to fours; fives to nines are the anomalies. score_samples: low = unusual.
usual, unusual = X[y < 5], X[y >= 5]
vae = SplitVAEEstimator(latent_dim=8, epochs=epochs, random_state=0).fit(usual[:700])
rows = np.concatenate([usual[700:], unusual])
scores = vae.score_samples(rows)
belongs = np.arange(len(rows)) < len(usual) - 700
print(f"area under the ROC curve, {belongs.sum()} rows that belong, {(~belongs).sum()} that do not: "
      f"{roc_auc_score(belongs, scores):.3f}")  # fmt: skip

odd = rows[np.argsort(scores)[:10]]
pictures = np.stack([odd, vae.inverse_transform(vae.transform(odd))]).reshape(2, 10, 8, 8)
grid = pictures.transpose(0, 2, 1, 3).reshape(16, 80).clip(0, 16) * (255 / 16)
Image.fromarray(grid.astype(np.uint8)).resize((640, 128), Image.Resampling.NEAREST).save("anomalies.png")

# Codes as features.
pipeline = make_pipeline(
    SplitVAEEstimator(latent_dim=16, epochs=epochs, random_state=0), LogisticRegression(max_iter=999)
)
print(f"classes told from 16 codes: {pipeline.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]):.1%} of test rows")
