"""States given by a table of amplitudes, as samplers: their own exact values need no network."""

import torch
from torch import Tensor

from qsr.hamiltonians.base import basis_index, configurations
from qsr.samplers import Sampler


class TabledState(Sampler):
    """psi(n) for every basis index, normalised on the way in."""

    def __init__(self, amplitudes: Tensor) -> None:
        super().__init__()
        self.num_sites = len(amplitudes).bit_length() - 1
        psi = amplitudes.to(torch.complex128)
        self.psi = torch.nn.Parameter(psi / psi.abs().square().sum().sqrt(), requires_grad=False)
        self.has_phase = bool(psi.imag.any() or (psi.real < 0).any())

    @property
    def born(self) -> Tensor:
        """(2^N,) |psi|^2."""
        return self.psi.abs().square()

    def sample(self, num_samples, generator=None, context=None):
        index = torch.multinomial(self.born, num_samples, replacement=True, generator=generator)
        return configurations(self.num_sites)[index], self.born[index].log()

    def log_prob(self, configs, context=None):
        return self.born[basis_index(configs)].log()

    def phase(self, configs, context=None):
        return self.psi[basis_index(configs)].angle()


def exact_purity(psi: Tensor, sites: list[int]) -> float:
    """Tr rho_A^2 from the reduced density matrix of the sites, by the Schmidt values of psi."""
    num_sites = len(psi).bit_length() - 1
    rest = [site for site in range(num_sites) if site not in sites]
    # Axis number a of the reshaped vector is bit N-1-a of the index.
    axes = [num_sites - 1 - site for site in (*sites, *rest)]
    matrix = psi.reshape((2,) * num_sites).permute(axes).reshape(2 ** len(sites), -1)
    schmidt = torch.linalg.svdvals(matrix)
    return float(schmidt.pow(4).sum() / schmidt.pow(2).sum() ** 2)
