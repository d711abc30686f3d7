"""Where networks run when nobody says so, and on what."""

import ctypes
import os
import platform
import re
from functools import cache

import torch

from splitvae.errors import InputError


def pick_device(device: "torch.device | str | None" = None) -> torch.device:
    """The device asked for; None = the first GPU if there is one, else the CPU.

    Convolutions there are float32 from now on: a GPU would silently compute them with 10 bits of mantissa (TF32), and
    codes and features would be others than on a CPU under the same name.

    Raises:
        InputError: this machine has no such device.
    """
    torch.backends.cudnn.allow_tf32 = False
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type == "cpu":
            keep_freed_memory()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has one for each kind of device
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"there is no device '{device}' here; choose from: {', '.join(there)}.") from error
    return torch.device(device)


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where its C library is glibc.

    By default glibc gives blocks above 32 MB back to the system at once, and each step pays for the faults of fresh
    pages again: training on a CPU gains a fifth, with a gradient penalty two thirds (docs/results/LOG.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def hardware(device: "torch.device | str | None" = None) -> str:
    """The machine's class in words: the GPU, or the number and kind of CPU cores."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = re.findall(r"model name\s*:\s*(.+)", file.read())
        cpu = names[0].strip() if names else cpu
    except OSError:  # no Linux
        pass
    return f"{os.cpu_count()} cores {cpu}"
