"""Where networks run when nobody says so."""

import torch


def pick_device(device: "torch.device | str | None" = None) -> torch.device:
    """The device asked for; None = the first GPU if there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
