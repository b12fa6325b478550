"""What the benchmarks count and compute besides seconds."""

import math

import flip_training
import flips
import overhead
import pytest
import scaling
import steps
import torch
from stepping import ADAM, DEEP, SMALL, SPRING, Stepper, Stopwatch, neighbour_window, row_window, sample_configs

import qsr
from qsr.estimators.flip_choice import FIXED_PASSES, FlipCosts, WindowCost, flip_costs
from qsr.estimators.sampled_flips import FlipSampling, sampled_local_energy


def model_of(settings, size=4):
    return Stepper(settings, size, 4).model


def test_tokens_of_exact_flips_are_those_after_each_flip():
    model = model_of(SMALL, 8)
    costs = flip_costs(model, qsr.Rydberg(Lx=8, Ly=8).build(), sample_configs(model, 2), [(), neighbour_window(model)])
    sites, patches = 64, 16
    assert scaling.tokens(costs, "exact") == FIXED_PASSES * patches + sites * (patches - 1) / 2
    free = scaling.tokens(costs, "M=4")
    assert FIXED_PASSES * patches < free <= (FIXED_PASSES + scaling.NUM_FLIPS) * patches
    # Every patch that has a later neighbour reads it once for each of its four flips: 3 below, 3 right, ... of a 4x4 grid.
    pairs = 2 * 4 * 3 + 2 * 3 * 3
    assert costs.windows[1].window_tokens >= 4 * pairs
    assert scaling.tokens(costs, "M=4 + neighbours") > free


def test_tokens_with_made_up_costs():
    windows = [WindowCost((), 0.0, 10.0, 1.0, ()), WindowCost((1,), 7.0, 9.0, 0.1, ())]
    costs = FlipCosts(exact_tokens=100.0, exact_variance=1.0, bulk_variance=1.0, fixed_tokens=50.0, windows=windows)
    assert [scaling.tokens(costs, kind, 2) for kind in scaling.KINDS] == [150.0, 70.0, 75.0]


def test_exponent():
    sites = [64, 144, 256]
    assert scaling.exponent(sites, [3 * n**1.7 for n in sites]) == pytest.approx(1.7)
    assert scaling.exponent(sites, [2.0, 2.0, 2.0]) == pytest.approx(0.0)


def test_windows():
    one = model_of(SMALL, 16)
    assert row_window(one) == tuple(range(1, 9))
    assert neighbour_window(one) == (1, 7, 8, 9)
    assert neighbour_window(model_of(DEEP, 16)) == tuple(range(1, 10))  # two layers read what lies between
    assert flips.describe((1, 7, 8, 9)) == "1,7,8,9" and flips.describe((1, 2, 3)) == "1-3" and flips.describe(()) == "none"


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("window", [(), (1, 2)])
def test_added_variance_is_that_of_many_draws(window, learned):
    torch.manual_seed(0)
    stepper = Stepper(SMALL, 4, 4)
    model, hamiltonian = stepper.model, stepper.objective.hamiltonian
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    costs = flip_costs(model, hamiltonian, sample_configs(model, 32, seed=1), [window])
    configs = sample_configs(model, 1, seed=2)
    exact = flips.flip_terms(model, hamiltonian, configs, None)
    found = {known: added for _, known, added, _ in flips.window_rows(model, hamiltonian, costs, configs, exact)}
    draws = 20_000
    sampling = FlipSampling(1, window, costs.windows[0].weights if learned else None)
    uniforms = torch.rand(draws, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = sampled_local_energy(model, hamiltonian, configs.expand(draws, -1), sampling, uniforms).values
    assert values.var().item() / model.num_sites == pytest.approx(found[learned], rel=0.1)


def test_a_step_with_drawn_flips_keeps_its_sampling():
    sampling = FlipSampling(2, (1,))
    stepper = Stepper(SMALL, 4, 8, sampling=sampling)
    assert stepper.step()["flips"] == 2
    assert stepper.objective.sampling == sampling
    assert Stepper(SMALL, 4, 8).step()["flips"] == 0


def test_weights_are_taken_to_a_larger_lattice():
    small, large = Stepper(SMALL, 4, 4), Stepper(SMALL, 8, 4)
    large.load(small.model)
    assert torch.equal(large.model.state_dict()["head.0.weight"], small.model.state_dict()["head.0.weight"])


@pytest.mark.parametrize(("optimizer", "parts"), [(ADAM, {"sample", "flips"}), (SPRING, {"sample", "flips", "kernel", "solve"})])
def test_parts_add_up_to_the_step(optimizer, parts):
    found = steps.breakdown(Stepper(SMALL, 4, 16, optimizer), 1)
    assert set(found) == parts | {"rest", "step"}
    assert all(seconds > 0 for seconds in found.values())
    assert sum(seconds for part, seconds in found.items() if part != "step") == pytest.approx(found["step"])


def test_a_stopwatch_leaves_what_it_watched():
    class Thing:
        def work(self):
            return 3

    thing, watch = Thing(), Stopwatch()
    with watch.watching({"work": (thing, "work")}):
        assert [thing.work(), thing.work()] == [3, 3]
    assert "work" not in vars(thing) and watch.seconds["work"] > 0


def test_overhead_is_taken_between_neighbours():
    seconds = {"by hand": [1.0, 2.0, 4.0], "trainer": [1.1, 2.2, 4.4], "trainer with a run directory": [1.5, 2.2, 4.4]}
    found = overhead.overheads(seconds)
    assert found["by hand"] == 0.0
    assert found["trainer"] == pytest.approx(0.1) and found["trainer with a run directory"] == pytest.approx(0.1)


def test_the_loop_by_hand_does_what_the_trainer_does():
    run = qsr.train(**overhead.tree(3, 8, "<NONE>"))
    energies = []

    class Watch(qsr.training.Callback):
        def on_step_end(self, trainer, metrics):
            energies.append(metrics["energy"])

    qsr.train(**overhead.tree(3, 8, "<NONE>"), callbacks=[Watch()])
    assert overhead.by_hand(3, 8)[1] == energies[-1]
    assert run.model.num_sites == 64


def test_reporting_times_lie_where_both_runs_have_checkpoints():
    times = flip_training.time_grid([(1.0, 100.0), (2.0, 32.0)], 5)
    assert times == pytest.approx([2, 4, 8, 16, 32])
    assert flip_training.time_grid([(5.0, 6.0), (1.0, 2.0)], 5) == [2.0]
    assert math.isclose(times[-1], 32.0)
