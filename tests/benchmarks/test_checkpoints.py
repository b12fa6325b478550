"""Time to accuracy: on made-up checkpoints with known energies, and once from a real, tiny run."""

import math
import time

import accuracy
import pytest
from checkpoints import Enough, Estimated, FreshSamples, Goal, Keeper, Saved, first_reaching, reaches, read_index, spread

REFERENCE = -0.4


class MadeUp:
    """Energies that are known, with a standard error that falls with the samples; counts the samples taken."""

    def __init__(self, errors, deviation=0.0, spread=0.0):
        self.energies = [REFERENCE * (1 - error) for error in errors]
        self.deviation, self.spread = deviation, spread
        self.taken = [0] * len(errors)

    def __call__(self, index, samples):
        self.taken[index] = max(self.taken[index], samples)
        return Estimated(self.energies[index] + self.spread, self.deviation / math.sqrt(samples), samples)


def first(made, error, most=65536, exact=True):
    goal = Goal(error, REFERENCE, exact)
    return first_reaching(len(made.energies), lambda index: reaches(goal, index, made, most))


def test_the_first_good_checkpoint_is_found():
    errors = [0.1 * 0.8**i for i in range(40)]
    for goal in (1e-2, 3e-3, 1e-3):
        made = MadeUp(errors, deviation=0.01)
        assert first(made, goal) == next(i for i, error in enumerate(errors) if error <= goal)


def test_few_checkpoints_are_evaluated_with_many_samples():
    made = MadeUp([0.1 * 0.95**i for i in range(120)], deviation=0.05)
    assert first(made, 3e-3) == next(i for i in range(120) if 0.1 * 0.95**i <= 3e-3)
    assert sum(taken > 0 for taken in made.taken) < 20
    assert made.taken[0] == 0


def test_nothing_is_found_where_nothing_is_good():
    assert first(MadeUp([0.1, 0.05, 0.02], deviation=0.01), 1e-2) is None
    assert first(MadeUp([]), 1e-2) is None


def test_a_run_that_is_good_but_for_its_last_checkpoint():
    assert first(MadeUp([0.1, 0.05, 0.001, 0.001, 0.001, 0.5], deviation=0.01), 1e-2) == 2


def test_a_good_checkpoint_just_before_a_bad_one_is_found():
    errors = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.009, 0.02, 0.008, 0.007, 0.006, 0.005]
    assert first(MadeUp(errors, deviation=0.001), 1e-2) == 6


def test_too_large_a_standard_error_does_not_count():
    made = MadeUp([0.0], deviation=1.0)  # 1/256 at 65536 samples
    assert first(made, 1e-2) is None
    assert made.taken == [65536]
    assert first(MadeUp([0.0], deviation=0.2), 1e-2) == 0  # 0.2/256 < 0.004/4


def test_samples_grow_only_as_far_as_they_must():
    made = MadeUp([1e-3], deviation=0.05)
    assert first(made, 1e-2) == 0
    # A quarter of 1e-2 of 0.4 is 1e-3: 2500 samples.
    assert 2500 <= made.taken[0] <= 3000
    made = MadeUp([0.2], deviation=0.05)
    assert first(made, 1e-2) is None and made.taken == [256]  # clearly outside at once


def test_below_an_exact_energy_is_wrong_but_below_a_variational_one_is_good():
    made = MadeUp([-0.05], deviation=0.0)
    assert first(made, 1e-2, exact=True) is None
    assert first(made, 1e-2, exact=False) == 0


def test_energies_that_are_not_finite_do_not_count():
    assert first(MadeUp([math.nan]), 1e-2) is None


def test_spread_keeps_the_ends():
    seconds = [0.1 * i for i in range(1, 200)]
    found = spread(seconds, 12)
    assert found[0] == 0 and found[-1] == 198 and len(found) <= 12
    assert spread([], 12) == [] and spread([1.0], 12) == [0]


def test_summary_over_seeds():
    runs = [{"reached": {"0.001": seconds, "0.0001": None if seconds == 3 else seconds}} for seconds in (1.0, 2.0, 3)]
    assert accuracy.summary(4, runs) == [("0.001", 2.0, 3, 3), ("0.0001", 2.0, None, 2)]
    assert accuracy.summary(4, [{"reached": {"0.001": None, "0.0001": None}}])[0] == ("0.001", None, None, 0)


# ---- a real run ------------------------------------------------------------------------------------------------------

TINY = {
    "model": {"type": "rnn", "Nh": 4},
    "train": {"K": 16, "curriculum": "2x2:4,4x4:6"},
    "checkpoint": {"every_n_steps": 2},
}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(accuracy, "settings", lambda size: {name: dict(section) for name, section in TINY.items()})
    monkeypatch.setattr("checkpoints.LEAST", 0.0)
    monkeypatch.setattr("checkpoints.SPACING", 0.0)


def test_checkpoints_of_the_last_lattice_are_kept_and_their_time_is_not_counted(tiny, tmp_path, monkeypatch):
    save = Keeper.save

    def slowly(self, step, model):
        save(self, step, model)
        time.sleep(0.2)

    monkeypatch.setattr(Keeper, "save", slowly)
    keeper = accuracy.train(4, 0, tmp_path, math.inf, keep=False, resume=False)
    assert [entry.step for entry in keeper.saved] == [5, 6, 7, 8, 9, 10]
    gaps = [b.seconds - a.seconds for a, b in zip(keeper.saved, keeper.saved[1:], strict=False)]
    assert all(0 < gap < 0.2 for gap in gaps)
    assert read_index(tmp_path) == keeper.saved


def test_evaluation_agrees_with_the_weights(tiny, tmp_path):
    keeper = accuracy.train(4, 0, tmp_path, math.inf, keep=False, resume=False)
    problem = keeper.settings.hamiltonian
    model = keeper.settings.model.build(problem.lattice())
    exactly = FreshSamples(model, problem.build(), tmp_path, keeper.saved, enumerate_all=True)
    sampled = FreshSamples(model, problem.build(), tmp_path, keeper.saved)
    known = exactly(3, 256)
    sampled(3, 512)
    more = sampled(3, 4096)
    assert more.samples == 4096
    assert abs(more.energy - known.energy) < 5 * more.error
    found = accuracy.assess(4, keeper, 4096)
    assert found["reached"] == {"0.001": None, "0.0001": None}
    assert found["curve"][-1]["step"] == 10


def test_a_budget_ends_a_run_and_it_can_be_resumed(tiny, tmp_path):
    short = accuracy.train(4, 0, tmp_path, 1e-9, keep=True, resume=False)
    assert short.saved == []  # on the first lattice of the curriculum
    with pytest.raises(SystemExit, match="--resume"):
        accuracy.train(4, 0, tmp_path, math.inf, keep=True, resume=False)

    class Stop(Keeper):
        def on_step_end(self, trainer, metrics):
            super().on_step_end(trainer, metrics)
            if trainer.step == 8:
                raise Enough

    Stop.__name__ = "Keeper"  # the name under which a run keeps the state of a callback
    original, accuracy.Keeper = accuracy.Keeper, Stop
    try:
        first = accuracy.train(4, 0, tmp_path, math.inf, keep=True, resume=True)
    finally:
        accuracy.Keeper = original
    assert [entry.step for entry in first.saved] == [5, 6, 7, 8]
    rest = accuracy.train(4, 0, tmp_path, math.inf, keep=True, resume=True)
    steps = [entry.step for entry in rest.saved]
    assert steps == [5, 6, 7, 8, 9, 10]  # 7 and 8 again: the last checkpoint of the run is that of step 6
    assert [entry.seconds for entry in rest.saved] == sorted(entry.seconds for entry in rest.saved)
    done = accuracy.train(4, 0, tmp_path, math.inf, keep=True, resume=True)
    assert done.saved == rest.saved  # finished: nothing is trained


def test_resuming_without_a_run_says_so(tmp_path):
    with pytest.raises(SystemExit, match="nothing to resume"):
        accuracy.train(16, 0, tmp_path, math.inf, keep=True, resume=True)


def test_a_rewind_gives_no_seconds_back(tmp_path):
    keeper = Keeper(tmp_path)
    keeper.seconds = 10.0
    keeper.saved = [Saved(1, 4.0, "a"), Saved(2, 9.0, "b")]
    keeper.load_state_dict({"seconds": 5.0})
    assert keeper.seconds == 10.0 and len(keeper.saved) == 2
    keeper.seconds = 0.0
    keeper.load_state_dict({"seconds": 5.0})
    assert keeper.seconds == 5.0 and [entry.step for entry in keeper.saved] == [1]
