"""Several processes extract the features of one evaluation: the first hands out the work, all do it, the first gathers.

    torchrun --nproc-per-node 4 -m splitvae evaluate runs/celeba

Only the first process reads and writes caches, samples, compares and prints; so no process can wait for another that
has found its features on disk.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from splitvae.errors import Interrupted, SplitVAEError

# The others wait while the first computes its metrics or fits a mixture, which may take long.
PATIENCE = timedelta(hours=24)

T = TypeVar("T")


class Dismissed(Exception):
    """Ends the other processes of a crew when the first is done, or has failed; ``crew_of_launch`` takes it in."""


@dataclass(frozen=True)
class Crew:
    """The processes of one evaluation.

    Attributes:
        rank: which one this is; 0 = the first.
        size: how many there are; 1 = no crew, and nothing is sent.
        local_rank: which one on its machine: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def prepare(self, make: Callable[[], T]) -> T:
        """What every process makes for itself; the first goes first, so that it alone downloads and fills caches.

        Raises:
            SplitVAEError: on the first process, where another has failed; its own failure as it is.
            Dismissed: on the others, where any has failed.
        """
        if self.size == 1:
            return make()
        if self.rank == 0:
            made = self._together(make)
            self._together(lambda: None)
        else:
            self._together(lambda: None)
            made = self._together(make)
        return made

    def _together(self, make: Callable[[], T]) -> T:
        """``make()`` on all processes, or an end on all of them."""
        failure = None
        try:
            made = make()
        except Exception as error:
            failure = error
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, failure and _line(failure))
        if any(told):
            if self.rank:
                self.serve({})
            if failure:
                raise failure
            raise self._failed(told)
        return made

    def share(self, kind: str, items: Any, work: Callable[..., np.ndarray], *options: Any) -> np.ndarray:
        """On the first process: ``work(items, *options)``, done by all.

        Args:
            kind: under which the others know this work, see ``serve``.
            items: N latents or row numbers, a tensor or an array; each process gets a part.
            work: (items, *options) → (n, …), independent from item to item.
            options: passed to the others as they are.

        Returns:
            (N, …) in the order of the items.

        Raises:
            SplitVAEError: it failed in another process.
        """
        if self.size == 1 or len(items) < self.size:
            return work(items, *options)
        parts = [items[rows[0] : rows[-1] + 1] for rows in np.array_split(np.arange(len(items)), self.size)]
        dist.scatter_object_list([None], [(kind, part, options) for part in parts], src=0)
        found: list[Any] = [None] * self.size
        try:
            own: Any = work(parts[0], *options)
        except Exception as error:
            if not isinstance(error, Interrupted):
                dist.gather_object(None, found)  # the others wait with theirs
            raise
        dist.gather_object((own, None), found)
        failures = [failure for _, failure in found]
        if any(failures):
            raise self._failed(failures)
        return np.concatenate([part for part, _ in found])

    def serve(self, works: dict[str, Callable[..., np.ndarray]]) -> NoReturn:
        """On the other processes: work until the first has no more.

        Args:
            works: what ``share`` calls ``work``, by kind.

        Raises:
            Dismissed: at the end.
        """
        while True:
            task: list[Any] = [None]
            dist.scatter_object_list(task, None, src=0)
            if task[0] is None:
                raise Dismissed
            kind, part, options = task[0]
            try:
                found: Any = (works[kind](part, *options), None)
            except Exception as error:  # told by the first process
                found = (None, _line(error))
            dist.gather_object(found, None)

    def dismiss(self) -> None:
        """On the first process: no more work."""
        if self.rank == 0:
            with suppress(RuntimeError):  # the others may have failed in the same way, and gone
                dist.scatter_object_list([None], [None] * self.size, src=0)

    def _failed(self, failures: list[str | None]) -> SplitVAEError:
        rank = next(rank for rank, failure in enumerate(failures) if failure)
        return SplitVAEError(f"process {rank + 1} of {self.size} failed: {failures[rank]}")


def _line(error: Exception) -> str:
    return str(error) if isinstance(error, SplitVAEError) else f"{type(error).__name__}: {error}"


@contextmanager
def crew_of_launch() -> Iterator[Crew]:
    """The processes that ``torchrun`` has started, or this one alone.

    When the first leaves, the others end what is inside as well, and go on behind it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Crew()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    crew = Crew(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    try:
        yield crew
    except Dismissed:
        pass
    except (KeyboardInterrupt, Interrupted):  # which the others were told as well
        raise
    except Exception:
        crew.dismiss()
        raise
    else:
        crew.dismiss()
    finally:
        dist.destroy_process_group()


def own_device(crew: Crew, asked: "torch.device | str | None") -> "torch.device | str | None":
    """Where a process of a crew works: its own GPU, unless a device was asked for."""
    if crew.size > 1 and asked is None and torch.cuda.is_available():
        return f"cuda:{crew.local_rank % torch.cuda.device_count()}"
    return asked
