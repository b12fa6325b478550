"""Every sampler with every patch form on small lattices, Lx != Ly and N <= 12."""

import torch

from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN, AutoregressiveSampler

SMALL = {"Nh": 8, "nhead": 2}
ORIGINAL = {"token": "linear", "positions": "sinusoidal", "norm_first": False}
# Quantum embeddings without context, and with all that the senses of a patch may depend on.
ALONE = {"K": 3, "strategy": "none"}
SUPERPOSED = {"K": 3, "strategy": "none", "context_encoder": "mean", "entanglement": "bell_state", "temperature": 1.0}
RECURRENT = {"K": 2, "strategy": "soft", "context_encoder": "rnn", "entanglement": "custom", "readout": "born"}
CHAINED = {"K": 3, "strategy": "argmax", "entanglement": "ghz_state", "ghz_size": 2, "entanglement_strength": 1.0}
FACTORED = {"K": 2, "factorization": "ketxs", "rank": 2, "context_encoder": "mean", "readout": "real"}

CASES = {
    "rnn-gru-1": (RNN(Nh=8, patch=1), (2, 3)),
    "rnn-elman-1": (RNN(Nh=8, patch=1, rnntype="ELMAN"), (3, 2)),
    "rnn-gru-2x2": (RNN(Nh=8, patch="2x2"), (2, 4)),
    "rnn-gru-2x3": (RNN(Nh=8, patch="2x3"), (4, 3)),
    "rnn-gru-4": (RNN(Nh=8, patch=4), (3, 4)),
    "ptf-1": (PTF(**SMALL, patch=1), (2, 3)),
    "ptf-2x2-two-layers": (PTF(**SMALL, num_layers=2), (4, 2)),
    "ptf-2x3-original": (PTF(**SMALL, **ORIGINAL, patch="2x3"), (2, 6)),
    "ptf-4-original": (PTF(**SMALL, **ORIGINAL, patch=4, num_layers=2), (3, 4)),
    "ptf-2x2-source": (PTF(**SMALL, patch=2, _2D=True, positions="sinusoidal"), (2, 6)),
    "lptf-2x2-rnn-1": (LPTF(**SMALL, patch="2x2", subsampler=RNN(patch=1)), (2, 6)),
    "lptf-4-rnn-2": (LPTF(**SMALL, patch=4, subsampler=RNN(patch=2)), (3, 4)),
    "lptf-2x3-ptf-1x3": (LPTF(**SMALL, patch="2x3", subsampler=PTF(Nh=4, nhead=2, patch="1x3")), (4, 3)),
    "lptf-2x2-ptf-repeated": (LPTF(**SMALL, patch="2x2", subsampler=PTF(**SMALL, patch=1, repeat_pre=True)), (2, 4)),
    "lptf-of-lptf": (
        LPTF(**SMALL, patch="2x3", subsampler=LPTF(**SMALL, patch="1x3", subsampler=RNN(patch=1))),
        (2, 6),
    ),
    "lptf-original": (LPTF(**SMALL, **ORIGINAL, patch="2x2", num_layers=2, subsampler=RNN(patch="1x2")), (4, 2)),
    "rnn-quantum": (RNN(Nh=8, patch=1, embedding=ALONE), (2, 3)),
    "rnn-quantum-superposed": (RNN(Nh=8, patch="2x1", rnntype="ELMAN", embedding=SUPERPOSED), (4, 2)),
    "ptf-quantum": (PTF(**SMALL, patch="2x1", embedding=ALONE), (2, 5)),
    "ptf-quantum-superposed": (PTF(**SMALL, patch=1, embedding=SUPERPOSED), (2, 3)),
    "ptf-quantum-recurrent": (PTF(**SMALL, num_layers=2, patch="1x2", embedding=RECURRENT), (4, 2)),
    "ptf-quantum-chained": (PTF(**SMALL, patch="2x1", embedding=CHAINED), (2, 4)),
    "lptf-quantum-rnn": (LPTF(**SMALL, patch="2x2", embedding=FACTORED, subsampler=RNN(patch=1, embedding=SUPERPOSED)), (2, 6)),
    "lptf-quantum-ptf": (
        LPTF(**SMALL, patch="1x3", embedding=RECURRENT, subsampler=PTF(Nh=4, nhead=2, patch=1, embedding=CHAINED)),
        (2, 3),
    ),
}


def build(name: str, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> AutoregressiveSampler:
    """A case with reproducible weights, scaled up so that the distribution is far from uniform."""
    settings, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(sum(name.encode()))
        sampler = settings.build(Lattice(*shape)).to(dtype)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(scale)
    return sampler.eval()
