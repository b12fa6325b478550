"""A run in which one process of several fails by itself: `python -m tests.training.failing_runs RANK`."""

import sys

import qsr
from qsr.training import Callback, RunFailed, Trainer
from qsr.training.distribution import Processes
from qsr.training.protocols import Metrics
from tests.training.shared_runs import given


class Failing(Callback):
    """Fails after a step, before the processes agree on whether to stop."""

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step == 3 and trainer.processes.rank == int(sys.argv[1]):
            raise RunFailed("by itself")


if __name__ == "__main__":
    try:
        qsr.train(**given("RNN, Adam", "float32"), callbacks=[Failing()])
    except RunFailed as error:
        print(f"{Processes.expected().rank}:{type(error).__name__}", flush=True)
        sys.exit(1)
