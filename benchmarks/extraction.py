"""Features of images: Inception-2015 as we run it and as torch-fidelity does, on the same weights; EfficientNet."""

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torch import nn

from benchmarks.timing import seconds, summary, take_turns
from splitvae.evaluation.features import extract, get_extractor

INCEPTION = "inception-v3-compat"
THEIR_BATCH = 64  # torch-fidelity's default


def compare(images: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Seconds for so many 32×32 colour images, in turns; random weights, which cost what the published ones do."""
    pictures = np.random.default_rng(0).integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = Path(folder) / "random.pt"
        write_random_weights(weights)
        theirs = fidelity.FeatureExtractorInceptionV3(INCEPTION, ["2048"], str(weights)).to(device).eval()
        ours = {
            INCEPTION: get_extractor(INCEPTION, weights, device),
            "efficientnet-lite0": get_extractor("efficientnet-lite0", None, device),
        }

    @torch.inference_mode()
    def run_theirs() -> np.ndarray:
        batches = torch.from_numpy(pictures).split(THEIR_BATCH)
        return torch.cat([theirs(batch.to(device))[0] for batch in batches]).cpu().numpy()

    difference = np.abs(run_theirs() - extract(pictures, ours[INCEPTION])).max() / np.abs(run_theirs()).max()
    turns: dict[str, Callable[[], float]] = {"torch-fidelity": lambda: seconds(run_theirs)}
    turns |= {f"ours {name}": lambda own=own: seconds(lambda: extract(pictures, own)) for name, own in ours.items()}
    taken = take_turns(turns, rounds)
    result: dict[str, Any] = {name: summary(times) for name, times in taken.items()}
    ratio = result["torch-fidelity"]["median_s"] / result[f"ours {INCEPTION}"]["median_s"]
    return result | {
        "images": images,
        "ratio": ratio,
        "largest_relative_difference": float(difference),
        "versions": {"torch-fidelity": version("torch-fidelity")},
    }


def write_random_weights(path: Path) -> None:
    """A weights file for torch-fidelity's network, which does not start without one."""
    with (
        patch.object(fidelity, "load_state_dict_from_url", return_value={}),
        patch.object(fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        network = fidelity.FeatureExtractorInceptionV3(INCEPTION, ["2048"])
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
