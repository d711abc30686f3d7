"""Where networks run when nobody says so."""

import torch


def pick_device(device: "torch.device | str | None" = None) -> torch.device:
    """The device asked for; None = the first GPU if there is one, else the CPU.

    Convolutions there are float32 from now on: a GPU would silently compute them with 10 bits of mantissa (TF32), and
    codes and features would be others than on a CPU under the same name.
    """
    torch.backends.cudnn.allow_tf32 = False
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
