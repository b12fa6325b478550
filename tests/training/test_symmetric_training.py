"""Training with symmetries: gradients sample by sample, runs from start to end, and what they may be combined with."""

from pathlib import Path

import pytest
import torch

import qsr
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.samplers import SymmetrizedSampler
from qsr.training.per_sample import PerSampleGradients
from qsr.training.protocols import BatchKey

SMALL = {"Nh": 8, "nhead": 2}
MODELS = {
    "rnn": qsr.RNN(Nh=8, patch=1, symmetry="point"),
    "ptf": qsr.PTF(**SMALL, patch="1x3", num_layers=2, symmetry="point"),
    "lptf": qsr.LPTF(**SMALL, patch="1x3", subsampler=qsr.RNN(patch=1), symmetry="point"),
    "quantum": qsr.PTF(**SMALL, patch=1, embedding={"K": 3, "strategy": "none", "context_encoder": "mean"}, symmetry="point"),
}


def exact_energy(model: torch.nn.Module, problem: qsr.Rydberg) -> float:
    """<psi|H|psi> of psi = sqrt(p) by enumeration."""
    with torch.no_grad():
        psi = model.log_prob(configurations(problem.num_sites)).double().div(2).exp().numpy()
    return float(psi @ (problem.build().to_sparse() @ psi))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory", [2**30, 1], ids=["whole", "row by row"])
def test_gradients_of_single_samples(name: str, memory: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MODELS[name].build(qsr.Lattice(2, 3)).double().train()
    configs = configurations(6)[[0, 5, 11, 41]]
    expected = []
    for config in configs:
        model.zero_grad()
        model.log_prob(config[None]).sum().backward()
        expected.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    gradients = PerSampleGradients(model, memory)
    jacobian = torch.cat([block for _, block in gradients.blocks(configs, BatchKey(0, 0, 0))], dim=1)
    assert (jacobian - torch.stack(expected)).abs().max() < 1e-12
    weights = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    assert (gradients.weighted_sum(configs, weights, BatchKey(0, 0, 0)) - weights @ torch.stack(expected)).abs().max() < 1e-12


def start(directory: Path, model: object, problem: object = None, optimizer: str = "spring", **train: object) -> qsr.Run:
    values = {"K": 64, "dir": str(directory), **({} if "curriculum" in train else {"steps": 6}), **train}
    return qsr.train(problem or qsr.Rydberg(Lx=2, Ly=3), model, train=values, optimizer={"name": optimizer})


def test_a_run_loads_as_it_was(tmp_path: Path) -> None:
    run = start(tmp_path, qsr.PTF(**SMALL, patch=1, symmetry="point"), steps=2)
    loaded = qsr.load_model(run.path)
    assert isinstance(loaded, SymmetrizedSampler) and loaded.order == 4
    assert torch.equal(loaded.log_prob(configurations(6)), run.model.eval().log_prob(configurations(6)))


@pytest.mark.slow  # that an average is never above its network is tested without training in tests/samplers
def test_training_ends_below(tmp_path: Path) -> None:
    """Same weights and seed: trained with the symmetry, then averaged afterwards, then without."""
    problem = qsr.Rydberg(Lx=2, Ly=3)
    model = qsr.PTF(**SMALL, patch=1)
    plain, symmetric = (start(tmp_path, model.updated({"symmetry": word}), problem, steps=40) for word in ("none", "point"))
    averaged = SymmetrizedSampler(plain.model, symmetric.model.permutations)
    energies = [exact_energy(each.eval(), problem) for each in (symmetric.model, averaged, plain.model)]
    assert qsr.exact(problem).energy < energies[0] < energies[1] < energies[2]


@pytest.mark.parametrize("optimizer", ["Adam", "spring"])
def test_resuming_is_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    model = qsr.PTF(**SMALL, patch=1, symmetry="point", dropout=0.1)

    class Stop(qsr.training.Callback):
        def on_step_end(self, trainer: object, *_: object) -> None:
            if trainer.step == 4:
                raise KeyboardInterrupt

    whole = start(tmp_path / "whole", model, optimizer=optimizer)
    values = {"K": 64, "steps": 6, "dir": str(tmp_path / "cut")}
    with pytest.raises(KeyboardInterrupt):
        qsr.train(
            qsr.Rydberg(Lx=2, Ly=3),
            model,
            train=values,
            optimizer={"name": optimizer},
            checkpoint={"every_n_steps": 3},
            callbacks=[Stop()],
        )
    (cut,) = (tmp_path / "cut").rglob("settings.json")
    resumed = qsr.resume(cut.parent)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_larger_lattices_and_other_symmetries(tmp_path: Path) -> None:
    """Fine-tuning takes the group of the new lattice, or of a new word; the weights are the same with and without."""
    small = start(tmp_path, qsr.PTF(**SMALL, patch="1x2", symmetry="point"), qsr.Rydberg(Lx=2, Ly=4))
    assert small.model.order == 4
    large = qsr.finetune(small, train={"steps": 1}, hamiltonian={"Lx": 4, "Ly": 4})
    assert large.model.order == 8 and large.model.num_sites == 16
    ring = qsr.finetune(small, train={"steps": 1}, hamiltonian={"boundary": "cylinder"}, symmetry="all")
    assert ring.model.order == 16 and ring.settings.model.symmetry == "all"
    plain = qsr.finetune(small, train={"steps": 0}, symmetry="none")
    assert torch.equal(plain.model.log_prob(configurations(8)), small.model.base.log_prob(configurations(8)))
    with pytest.raises(ConfigError, match=r"ptf\.symmetry=translations: the lattice has no such symmetry"):
        qsr.finetune(small, symmetry="translations")


def test_curriculum(tmp_path: Path) -> None:
    model = qsr.PTF(**SMALL, patch="1x2", symmetry="point")
    run = start(tmp_path, model, qsr.Rydberg(Lx=4, Ly=4), curriculum="2x4:2,4x4:2")
    assert run.model.order == 8
    where = r"train\.curriculum=1x1:2,4x4:2: ptf\.symmetry=point: the lattice has no such symmetry"
    with pytest.raises(ConfigError, match=where):
        start(tmp_path, model.updated({"patch": 1}), qsr.Rydberg(Lx=4, Ly=4), curriculum="1x1:2,4x4:2")


def test_transfers(tmp_path: Path) -> None:
    """Teacher or student may have a symmetry."""
    teacher = start(tmp_path, qsr.RNN(Nh=8, patch=1, symmetry="point"), optimizer="Adam")
    student = qsr.transfer(teacher, qsr.PTF(**SMALL, patch=1), train={"K": 128, "steps": 40, "lr": 0.02, "dir": str(tmp_path)})
    again = qsr.transfer(student, qsr.RNN(Nh=8, patch=1, symmetry="point"), train={"K": 32, "steps": 2, "dir": str(tmp_path)})
    assert again.model.order == 4

    def divergence(model: torch.nn.Module) -> float:
        with torch.no_grad():
            wanted, found = (each.eval().log_prob(configurations(6)).double() for each in (teacher.model, model))
        return float((wanted.exp() * (wanted - found)).sum())

    assert 0 <= divergence(student.model) < 0.05 < divergence(qsr.PTF(**SMALL, patch=1).build(qsr.Lattice(2, 3)))


@pytest.mark.parametrize("settings", [{"sgrad": True}, {"true_grad": True}, {"Q": 2, "K": 32}], ids=str)
def test_gradients_of_every_kind_train_it(tmp_path: Path, settings: dict[str, object]) -> None:
    run = start(tmp_path, qsr.RNN(Nh=8, patch=1, symmetry="point"), optimizer="Adam", steps=12, lr=0.03, **settings)
    first = MODELS["rnn"].build(qsr.Lattice(2, 3))
    assert exact_energy(run.model.eval(), qsr.Rydberg(Lx=2, Ly=3)) < exact_energy(first, qsr.Rydberg(Lx=2, Ly=3)) - 0.1


def test_drawn_flips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.flips=4: drawn flips belong to one network, and rnn\.symmetry=point"):
        start(tmp_path, qsr.RNN(Nh=8, patch=1, symmetry="point"), flips=4)
    assert not list(tmp_path.rglob("settings.json"))


def test_snapshots(tmp_path: Path) -> None:
    """A symmetric sampler learns them; readout errors are refused before there is a directory."""
    run = start(tmp_path, qsr.RNN(Nh=8, patch=1), steps=1)
    qsr.evaluate(run, 64, write=True)
    train = {"K": 32, "steps": 1, "dir": str(tmp_path / "learned")}
    problem, model = qsr.Rydberg(Lx=2, Ly=3), qsr.RNN(Nh=8, patch=1, symmetry="point")
    data = {"file": str(run.path / "samples.h5"), "e10": 0.05, "e01": 0.0}
    with pytest.raises(ConfigError, match=r"rnn\.symmetry=point: readout errors are taken off patch by patch"):
        qsr.train(problem, model, train=train, data=data)
    assert not (tmp_path / "learned").exists()
    assert qsr.train(problem, model, train=train, data={**data, "e10": 0.0}).model.order == 4
