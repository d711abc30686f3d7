"""How numbers are written in tables: headings with their explanations, digits, spreads, the symbols of outputs."""

import re
from typing import Any

import numpy as np

# Metric: (heading, digits, explanation).
COLUMNS = {
    "frechet_distance": ("{distance}", 2, "Fréchet distance to the real images; lower is better"),
    "frechet_at_infinity": ("n → ∞", 2, "the same, extrapolated to infinitely many samples"),
    "frechet_distance_train": ("to train", 2, "Fréchet distance to as many training images: choose on this one"),
    "memorisation_gap": ("gap", 2, "the first minus the one to train: positive where samples are nearer to train"),
    "kid": ("KID·10³", 2, "kernel distance times 1,000; lower is better"),
    "precision": ("precision", 3, "share of samples among the real ones: quality"),
    "recall": ("recall", 3, "share of real images among the samples: variety"),
    "density": ("density", 3, "as precision, robust to outliers; 1 for the data itself"),
    "coverage": ("coverage", 3, "share of real images with a sample nearby"),
    "class_total_variation": (
        "class shift",
        3,
        "share of samples with a class too many: ½ Σ |shares − real shares|",
    ),
    "class_accuracy": ("class accuracy", 3, "share of samples of the class they were drawn for; floor: of real images"),
}


def columns_of(lines: list[dict[str, float]], distance: str) -> dict[str, tuple[str, int, str]]:
    """Those of ``COLUMNS`` that any line has, their headings with the name of the distance."""
    metrics = {name for line in lines for name in line}
    return {
        name: (heading.format(distance=distance), digits, text)
        for name, (heading, digits, text) in COLUMNS.items()
        if name in metrics
    }


def value(line: dict[str, Any], metric: str, digits: int) -> str:
    """A number of a line of ``summarize``, with its spread over seeds where there are several."""
    if metric not in line["mean"]:
        return "–"
    scale = 1000 if metric == "kid" else 1
    text = f"{scale * line['mean'][metric]:.{digits}f}"
    return text + (f" ± {scale * line['spread'][metric]:.{digits}f}" if "spread" in line else "")


def component_words(rows: list[dict[str, Any]], source: str) -> str:
    """How far each component and their mix are from the test images beside the blend, over the sampling seeds.

    Args:
        rows: of ``metrics.json``.
        source: which of the clean ones.
    """
    clean = [row for row in rows if (row["protocol"], row["source"]) == ("clean", source)]
    by_seed: dict[str, dict[int, float]] = {}
    for row in clean:
        by_seed.setdefault(row["output"], {})[row["seed"]] = row["metrics"]["frechet_distance"]
    blend, parts = by_seed.pop("x_hat"), list[str]()
    for output, values in by_seed.items():
        gaps = np.array([values[seed] - blend[seed] for seed in sorted(blend)])
        spread = f" ± {gaps.std(ddof=1):.2f}" if len(gaps) > 1 else ""
        parts.append(f"{symbol(output)} {gaps.mean():+.2f}{spread}")
    return f"beside x̂ ({source}, distance to test images, negative = nearer): {', '.join(parts)}"


def symbol(name: str) -> str:
    """How people write an output or a latent: x_hat → x̂, x1 → x̂₁, z12 → z₁₂."""
    if name == "x_hat":
        return "x̂"
    numbered = re.fullmatch(r"([xz])(\d+)", name)
    if numbered is None:
        return name
    letter, number = numbered.groups()
    return ("x̂" if letter == "x" else letter) + number.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
