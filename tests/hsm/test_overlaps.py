"""Points as states: a phase that does not depend on the solver, and similarities between 0 and 1."""

import pytest
import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hsm import HSM, HilbertSpaceModel, similarity, transform
from qsr.hsm.overlaps import unscaled, with_fixed_phase


def model(**settings: object) -> HilbertSpaceModel:
    torch.manual_seed(0)
    given = {"hilbert_space_dims": 4} if settings.get("hsm_model") != "pauli" else {}
    return HilbertSpaceModel(HSM(input_operator_count=3, output_operator_count=1, **given, **settings))


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_similarities_of_two_levels_are_those_of_directions() -> None:
    """Pauli matrices: |<m|n>|^2 = (1 + m n) / 2."""
    found = model(hsm_model="pauli", qubits_count=1)
    names = ["I", "X", "Y", "Z"]
    with torch.no_grad():
        found.input_pauli_coeffs.zero_()
        for index in range(3):
            found.input_pauli_coeffs[index, names.index("XYZ"[index])] = 1.0
    x, others = rows(6).double(), rows(4, seed=1).double()
    expected = 0.5 * (1 + torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(others).T)
    assert torch.allclose(found.similarity(x, others), expected, atol=1e-7)
    own = similarity(found, x)
    assert torch.allclose(own, own.T) and torch.allclose(own.diagonal(), torch.ones(6).double())


@pytest.mark.parametrize(
    "settings", [{}, {"complex": False}, {"hsm_model": "pauli", "qubits_count": 2}, {"weighted_layer": True}]
)
def test_states_are_ground_states_with_a_phase_that_is_fixed(settings: dict[str, object]) -> None:
    made = model(**settings)
    x = rows(8)
    psi = made.transform(x)
    assert psi.dtype == (torch.float64 if settings == {"complex": False} else torch.complex128) and not psi.requires_grad
    largest = psi.gather(1, psi.abs().argmax(dim=1, keepdim=True))
    assert torch.allclose(largest.abs().to(psi.dtype), largest)
    solver = made.states(made.scaled_inputs(x)).ground
    assert torch.allclose((solver.conj() * psi.to(solver.dtype)).sum(dim=1).abs(), torch.ones(8), atol=1e-5)
    assert torch.equal(psi, transform(made, x)) and torch.allclose(psi[:3], made.transform(x[:3]), atol=1e-12)
    assert torch.allclose(made.transform(x.numpy()), psi)


def test_equal_components_do_not_let_rounding_choose_the_phase() -> None:
    state = torch.tensor([[1, 1j, -1, 1]], dtype=torch.complex128) / 2
    noise = 1e-12 * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = (state + noise) * torch.exp(1j * torch.linspace(0, 6, 5, dtype=torch.float64))[:, None]
    assert torch.allclose(with_fixed_phase(turned), state.expand(5, 4), atol=1e-10)


def test_scaling_there_and_back() -> None:
    made = model(weighted_layer=True)
    with torch.no_grad():
        made.input_weights.copy_(torch.tensor([2.0, 0.0, -1.0]))
    made.x_mean += torch.tensor([1.0, 2.0, 3.0])
    made.x_scale *= 4
    x = rows(5).double()
    scaled = made.scaled_inputs(x, torch.float64)
    assert torch.equal(scaled, (x - made.x_mean) / made.x_scale * made.input_weights.double())
    assert torch.allclose(scaled, made.scaled_inputs(x).double(), atol=1e-6)
    back = unscaled(made, scaled)
    assert torch.allclose(back[:, [0, 2]], x[:, [0, 2]]) and (back[:, 1] == 2).all()


def test_thermal_states_have_no_vector() -> None:
    for call in (model(beta=2.0).transform, model(beta=2.0).similarity):
        with pytest.raises(ConfigError, match=r"hsm\.beta=2: a model of thermal states; ground states \(no beta\)"):
            call(rows(2))
