"""Where a step stands in a run: the stages of a size curriculum, and what changes geometrically over the last of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stretch of steps on one lattice: steps `first` <= step < `end`.

    Schedules (learning rate, shift, batch) run over the final stage; those before it keep the values that it starts from.

    Attributes:
        shape: (Lx, Ly); None: the lattice of the settings.
        index: counts the stages of a run from 0.
        final: whether it is the last of them.
    """

    first: int
    end: int
    shape: tuple[int, int] | None = None
    index: int = 0
    final: bool = True

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.end - self.first

    def geometric(self, start: float, end: float | None, step: int) -> float:
        """From `start` in the final stage's first step to `end` in its last, by equal factors; `start` if there is no `end`."""
        if end is None or not self.final or self.steps < 2:
            return start
        done = min(max((step - self.first) / (self.steps - 1), 0.0), 1.0)
        return float(start ** (1 - done) * end**done)


def parse_curriculum(text: str) -> list[tuple[int, int, int]]:
    """(Lx, Ly, steps) of every stage of '8x8:2000,16x16:1500'.

    Raises:
        ValueError: for anything else.
    """
    stages = []
    for part in text.split(","):
        size, _, steps = part.strip().partition(":")
        numbers = [*size.split("x"), steps]
        if len(numbers) != 3 or not all(number.isdigit() and int(number) > 0 for number in numbers):
            raise ValueError("must be stages LxxLy:steps with commas between them (8x8:2000,16x16:1500)")
        stages.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return stages
