"""Several processes that learn as one: what each of them draws, and what is summed over all. One is the usual case."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

_WORST = "first_pass_log_ratio"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that were started together. All of them start from the same numbers, and as gradients
    are summed before every step, all keep the same ones."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """Of torch's process group, where there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def own(self, total: int) -> range:
        """Which of `total` things are this process's: its part of the row, as long as the others' or one longer."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def is_own(self, index: Tensor, total: int) -> Tensor:
        """Which of these indices of `total` things are this process's."""
        own = self.own(total)
        return (index >= own.start) & (index < own.stop)

    def gather(self, tensor: Tensor) -> Tensor:
        """Everybody's, one after the other; they must be of one shape."""
        if self.count == 1:
            return tensor
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor.contiguous())
        return torch.cat(found)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Each parameter's gradient becomes the sum of everybody's. Done by hand and not by DistributedDataParallel: a
        LoRA's gradient is small, and what goes around the wrapped module would never be summed."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def mean(self, value: float) -> float:
        """Of everybody's."""
        if self.count == 1:
            return value
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, value)
        return sum(every) / self.count

    def combine(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The mean of everybody's metrics; of the first pass, the worst."""
        if self.count == 1:
            return dict(metrics)
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, dict(metrics))
        combined = {name: sum(found[name] for found in every) / self.count for name in metrics}
        if _WORST in metrics:
            worst = max(every, key=lambda found: found[_WORST])
            combined |= {name: value for name, value in worst.items() if name.startswith("first_pass")}
        return combined

    def first(self, answer: Callable[[], bool]) -> bool:
        """What the first process answers, which alone is asked."""
        told = answer() if not self.rank else False
        if self.count == 1:
            return told
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, told)
        return bool(every[0])

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()
