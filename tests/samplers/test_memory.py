"""What a row takes is counted honestly, and no result depends on how many rows are worked on at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sampler_cases import CASES, build
from tensor_memory import TensorMemory

from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN, AutoregressiveSampler
from qsr.samplers.base import evaluation_mode
from qsr.samplers.flips import BasePass, FlipGroup

TOO_SMALL, TOO_LARGE = 1.1, 1.5
ROWS = 24

WIDE = {
    "ptf-two-layers": (PTF(Nh=64, nhead=8, num_layers=2, dim_feedforward=256), 12),
    "ptf-one-layer": (PTF(Nh=16, nhead=2, dim_feedforward=32), 16),
    "ptf-short": (PTF(Nh=32, nhead=4, num_layers=3, dim_feedforward=128), 8),
    "gru": (RNN(Nh=64, patch="2x2"), 12),
    "elman": (RNN(Nh=64, patch="2x2", rnntype="ELMAN"), 12),
    "ptf-quantum": (PTF(Nh=32, nhead=4, embedding={"K": 4}), 12),
    "ptf-quantum-mean": (PTF(Nh=32, nhead=4, embedding={"K": 4, "context_encoder": "mean", "entanglement": "custom"}), 12),
    "gru-quantum": (RNN(Nh=64, patch="2x2", embedding={"K": 2}), 12),
    "gru-quantum-rnn": (RNN(Nh=64, patch="2x2", embedding={"K": 4, "context_encoder": "rnn", "readout": "born"}), 12),
    "lptf-gru": (LPTF(Nh=64, nhead=4, patch="4x4", num_layers=2, subsampler=RNN(patch="2x2")), 16),
    "lptf-quantum": (LPTF(patch="4x4", embedding={"K": 4, "factorization": "ketxs"}, subsampler=RNN(embedding={"K": 2})), 16),
    "lptf-ptf": (LPTF(Nh=64, nhead=4, patch="4x4", subsampler=PTF(patch="2x2", Nh=32, nhead=4)), 16),
}


def wide(name: str) -> tuple[AutoregressiveSampler, torch.Tensor]:
    settings, side = WIDE[name]
    model = settings.build(Lattice(side, side))
    generator = torch.Generator().manual_seed(1)
    return model, torch.randint(0, 2, (ROWS, side * side), dtype=torch.uint8, generator=generator)


def per_row(work: Callable[[], Any], rows: int = ROWS) -> tuple[float, float]:
    """Bytes at the peak and of what is left, for each row."""
    with TensorMemory() as memory:
        result = work()
        left = memory.alive
    del result
    return memory.peak / rows, left / rows


def check(counted: int, measured: float, what: str) -> None:
    assert counted / TOO_LARGE < measured < counted * TOO_SMALL, f"{what}: counted {counted}, measured {measured:.0f}"


@pytest.mark.parametrize("name", WIDE)
def test_flips_take_what_is_counted(name: str) -> None:
    model, configs = wide(name)
    tokens, n = model.encode(configs), model.num_tokens
    with evaluation_mode(model):
        peak, left = per_row(lambda: BasePass(model, tokens, None))
        check(model.pass_bytes(), peak, "base pass")
        check(model.state_bytes(), left, "what a base pass leaves")
        passed = BasePass(model, tokens, None)
        xor = torch.zeros(2, n, dtype=torch.long)
        for start in (0, n // 2):
            xor[:] = 0
            xor[:, start] = torch.tensor([1, 2])
            for alone in (True, False):
                passed.change(FlipGroup(start, torch.arange(2), xor, alone), None)  # makes what `replace` adds to the state
                peak, _ = per_row(lambda: passed._change(start, xor, alone, None), 2 * ROWS)  # noqa: B023
                check(model.row_bytes(n - 1 - start, alone), peak, f"flips of token {start}, alone={alone}")
        rows = torch.arange(ROWS).repeat_interleave(2)
        for begin in (0, n // 2):
            peak, _ = per_row(lambda: passed._pair_change(begin, rows, xor[:1].expand(len(rows), n), rows), len(rows))  # noqa: B023
            check(model.row_bytes(n - begin) + model.prefix_bytes(begin), peak, f"single flips from token {begin}")
            if model.replaces_pairs:
                changed, start = xor[1:].expand(len(rows), n), torch.full_like(rows, n // 2)
                peak, _ = per_row(lambda: passed._token_change(begin, rows, changed, start), len(rows))  # noqa: B023
                check(model.pair_bytes(n - begin), peak, f"flips of single tokens from token {begin}")


@pytest.mark.parametrize("name", [name for name in WIDE if name.startswith("ptf")])
def test_the_shortcut_takes_what_is_counted(name: str) -> None:
    model, configs = wide(name)
    with evaluation_mode(model):

        def passed_and_asked() -> BasePass:
            passed = BasePass(model, model.encode(configs), None)
            attention = passed.state.attention()
            assert attention._weights and attention._base  # made when they are first asked for
            return passed

        check(model.state_bytes(shortcut=True), per_row(passed_and_asked)[1], "base pass with what replacing needs")


@pytest.mark.parametrize("name", WIDE)
def test_sampling_takes_what_is_counted(name: str) -> None:
    model, _ = wide(name)
    peak, _ = per_row(lambda: model.sample(4 * ROWS), 4 * ROWS)
    assert peak < TOO_SMALL * model.sample_bytes()
    if model.sample_bytes() > 2**15:  # what is left out of the count is not small beside a few kilobytes
        assert model.sample_bytes() < TOO_LARGE * peak


@pytest.mark.parametrize("name", WIDE)
def test_gradients_take_what_is_counted(name: str) -> None:
    model, configs = wide(name)
    model.log_prob(configs[:1]).sum().backward()  # the gradients themselves are there already
    peak, _ = per_row(lambda: model.log_prob(configs).sum().backward())
    check(model.graph_bytes(), peak, "graph")


@pytest.mark.parametrize("name", CASES)
def test_samples_do_not_depend_on_the_memory(name: str) -> None:
    sampler = build(name)
    generators = [torch.Generator().manual_seed(4) for _ in range(3)]
    expected, log_prob = sampler.sample(11, generators[0])
    for generator, memory_bytes in zip(generators[1:], (1, 3 * sampler.sample_bytes()), strict=True):
        configs, found = sampler.sample(11, generator, memory_bytes=memory_bytes)
        assert torch.equal(configs, expected) and (found - log_prob).abs().max() < 1e-12
        assert torch.equal(generator.get_state(), generators[0].get_state())


def test_samples_of_the_global_generator_do_not_depend_on_the_memory() -> None:
    sampler = build("ptf-1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected, _ = sampler.sample(5)
        after = torch.random.get_rng_state()
        torch.manual_seed(3)
        assert torch.equal(sampler.sample(5, memory_bytes=1)[0], expected)
        assert torch.equal(torch.random.get_rng_state(), after)


@pytest.mark.parametrize("memory_bytes", [2**20, 2**22])
def test_flips_stay_within_the_memory(memory_bytes: int) -> None:
    """With all samples at once they would take a hundred times as much."""
    model, configs = wide("ptf-two-layers")
    _, log_ratio = model.flip_log_ratio(configs[:8])
    with TensorMemory() as memory:
        _, found = model.flip_log_ratio(configs[:8], memory_bytes=memory_bytes)
    least = model.state_bytes(shortcut=True) + model.row_bytes(model.num_tokens)  # one sample with one flip
    assert memory.peak < TOO_SMALL * max(memory_bytes, least) + 2**20
    assert (found - log_ratio).abs().max() < 1e-4
