"""Seconds, measured so that competitors in one run can be compared."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with the device's queue empty before and after."""
    _drain()
    start = time.perf_counter()
    call()
    _drain()
    return time.perf_counter() - start


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int, dropped: int = 1) -> dict[str, list[float]]:
    """Call every contestant once a round; each call returns the seconds that it took.

    Args:
        contestants: by name.
        rounds: measured rounds.
        dropped: rounds before them, in which kernels are chosen and memory pools filled.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + dropped):
        for name, call in contestants.items():
            found = call()
            if number >= dropped:
                taken[name].append(found)
    return taken


def summary(times: list[float]) -> dict[str, float]:
    """The median, the fastest and the slowest, in seconds, and how many there were."""
    return {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "max_s": max(times),
        "rounds": len(times),
    }


def _drain() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
