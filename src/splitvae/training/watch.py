"""What the loop learns of its own values without waiting for the device that holds them."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def reads_at_once(device: torch.device) -> bool:
    """Whether a value can be read without waiting for a queue of work."""
    return device.type == "cpu"


@dataclass(frozen=True)
class Reading:
    """Values of some steps in a row.

    Attributes:
        step: the last of them.
        steps: their number.
        lr: the learning rate of the last.
        taken_at: when they were computed, or enqueued, in seconds of ``time.monotonic``.
        values: (2, T): means over the steps, and the values of the last.
    """

    step: int
    steps: int
    lr: float
    taken_at: float
    values: Tensor

    @property
    def means(self) -> Tensor:
        """(T,) means over the steps."""
        return self.values[0]

    @property
    def last(self) -> Tensor:
        """(T,) values of the last step."""
        return self.values[1]


class Watch:
    """Means over every few steps, read one turn late where reading at once would wait for a GPU.

    At its turn a reading sets out for the host; at the next turn, long after it has come, it is handed over. So the
    queue of the device never runs empty, and all processes see the same reading at the same step.

    Args:
        every: steps of a turn.
        total: the last step, which is a turn too.
        at_once: hand every reading over at its own turn.
    """

    def __init__(self, every: int, total: int, at_once: bool) -> None:
        self.every, self.total, self.at_once = every, total, at_once
        self._sums: Tensor | None = None
        self._steps = 0
        self._on_the_way: list[tuple[Reading, torch.cuda.Event | None]] = []

    def take(self, step: int, values: Tensor, lr: float, now: bool = False) -> list[Reading]:
        """Take note of one step.

        Args:
            step: steps done.
            values: (T,) on the device.
            lr: the step's learning rate.
            now: hand over all there is, and wait for it.

        Returns:
            the readings that are handed over, oldest first; mostly none.
        """
        self._sums = values.clone() if self._sums is None else self._sums.to(values.device).add_(values)
        self._steps += 1
        turn = step % self.every == 0 or step == self.total
        if turn:
            both = torch.stack([self._sums / self._steps, values])
            host, event = both, None
            if both.is_cuda:
                host = torch.empty(both.shape, dtype=both.dtype, pin_memory=True).copy_(both, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
            self._on_the_way.append((Reading(step, self._steps, lr, time.monotonic(), host), event))
            self._sums, self._steps = None, 0
        keep = 0 if now or self.at_once else 1 if turn else len(self._on_the_way)
        handed = []
        while len(self._on_the_way) > keep:
            reading, event = self._on_the_way.pop(0)
            if event is not None:
                event.synchronize()
            handed.append(reading)
        return handed

    def state(self) -> dict[str, Any]:
        """The sums of the turn that has begun, and readings that were not handed over, as JSON values."""
        waiting = []
        for reading, event in self._on_the_way:
            if event is not None:
                event.synchronize()
            waiting.append([reading.step, reading.steps, reading.lr, reading.values.tolist()])
        return {"steps": self._steps, "sums": None if self._sums is None else self._sums.tolist(), "waiting": waiting}

    def load(self, state: dict[str, Any]) -> None:
        """Go on within the turn that ``state`` is of."""
        self._steps = state["steps"]
        self._sums = None if state["sums"] is None else torch.tensor(state["sums"])
        for step, steps, lr, values in state.get("waiting", []):  # states of before 2026-11-30 have none
            self._on_the_way.append((Reading(step, steps, lr, time.monotonic(), torch.tensor(values)), None))
