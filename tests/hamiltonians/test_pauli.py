"""Pauli strings and sums of them: order, matrices, local values, products, signs of the elements, and text."""

import re
from functools import reduce

import numpy as np
import pytest
import torch

from qsr.hamiltonians import HeisenbergHamiltonian, PauliBasis, PauliSum, RydbergHamiltonian, TransverseFieldIsing
from qsr.hamiltonians.base import basis_index, configurations
from qsr.hamiltonians.pauli import number_of_strings, pauli_strings
from qsr.hparams import ConfigError
from qsr.lattice import Lattice

LETTERS = {
    "I": np.eye(2),
    "X": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "Y": np.array([[0.0, -1.0j], [1.0j, 0.0]]),
    "Z": np.diag([1.0, -1.0]),
}


def kronecker(string):
    """Letter i acts on site i, bit i of the index: the first letter is the rightmost factor."""
    return reduce(np.kron, [LETTERS[letter] for letter in reversed(string)])


def sum_matrix(terms):
    return sum(coefficient * kronecker(string) for string, coefficient in terms.items())


def random_sum(num_sites, count, seed=0, letters="IXYZ"):
    generator = np.random.default_rng(seed)
    strings = ["".join(generator.choice(list(letters), num_sites)) for _ in range(count)]
    return PauliSum(strings, generator.normal(size=count).tolist())


def random_state(num_sites, seed=0):
    generator = np.random.default_rng(seed)
    psi = generator.normal(size=2**num_sites) + 1j * generator.normal(size=2**num_sites)
    return psi / np.linalg.norm(psi)


def all_ratios(basis, psi):
    """(2^N, F) psi(n XOR mask) / psi(n)."""
    psi = torch.from_numpy(psi)
    return psi[torch.arange(len(psi))[:, None] ^ basis.flips] / psi[:, None]


@pytest.mark.parametrize(
    ("num_qubits", "max_weight", "count"),
    [(3, 1, 10), (3, 2, 37), (5, 2, 106), (5, 3, 376), (5, 5, 1024), (10, 2, 436), (20, 3, 32551), (4, 0, 1)],
)
def test_counts_of_strings(num_qubits, max_weight, count):
    strings = pauli_strings(num_qubits, max_weight)
    assert len(strings) == len(set(strings)) == number_of_strings(num_qubits, max_weight) == count


def test_order_of_strings():
    assert pauli_strings(2, 1) == ["II", "XI", "IX", "YI", "IY", "ZI", "IZ"]
    assert pauli_strings(3, 2)[10:16] == ["XXI", "XIX", "IXX", "XYI", "XIY", "IXY"]
    with pytest.raises(ValueError, match="max_weight=3"):
        pauli_strings(2, 3)


def test_flips_of_strings_up_to_a_weight():
    """sum_k C(n, k) of them, the identity first: what psi must be evaluated at."""
    assert PauliBasis(pauli_strings(10, 2)).num_flips == 56
    basis = PauliBasis(pauli_strings(3, 1))
    assert basis.flips.tolist() == [0, 1, 2, 4]
    assert basis.z_masks.tolist() == [0, 0, 0, 0, 1, 2, 4, 1, 2, 4]


@pytest.mark.parametrize(("num_qubits", "max_weight"), [(1, 1), (3, 2), (4, 4)])
def test_operators_are_the_kronecker_products(num_qubits, max_weight):
    strings = pauli_strings(num_qubits, max_weight)
    operators = PauliBasis(strings).operators(torch.eye(len(strings), dtype=torch.float64))
    for string, operator in zip(strings, operators.numpy(), strict=True):
        np.testing.assert_array_equal(operator, kronecker(string))


def test_operators_of_strings_in_any_order_and_number_format():
    strings = ["ZYX", "IIZ", "YYI", "ZYX", "XIX"]
    coefficients = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    operators = PauliBasis(strings).operators(coefficients)
    assert operators.dtype == torch.complex64
    expected = [sum(c * kronecker(s) for c, s in zip(row, strings, strict=True)) for row in coefficients.numpy()]
    np.testing.assert_allclose(operators, np.stack(expected), atol=1e-6)


def test_signs_that_are_not_kept_give_the_same_operators(monkeypatch):
    coefficients = torch.randn(2, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = PauliBasis(pauli_strings(3, 2)).operators(coefficients)
    monkeypatch.setattr("qsr.hamiltonians.pauli.KEPT_NUMBERS", 0)
    torch.testing.assert_close(PauliBasis(pauli_strings(3, 2)).operators(coefficients), kept, rtol=0, atol=0)


def test_gradient_of_operators():
    basis = PauliBasis(pauli_strings(3, 2))
    coefficients = torch.randn(2, 37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis.operators, coefficients)
    assert torch.autograd.gradgradcheck(basis.operators, coefficients)


def test_elements_are_those_of_the_matrices():
    strings = pauli_strings(3, 3)
    basis = PauliBasis(strings)
    configs = configurations(3)[[5, 0, 3]]
    rows = basis_index(configs)
    elements = basis.elements(configs)
    for s, string in enumerate(strings):
        columns = rows ^ basis.flips[basis.flip_index[s]]
        np.testing.assert_array_equal(elements[:, s], kronecker(string)[rows, columns])


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_three_energies_of_one_state(chunk, monkeypatch):
    """<H> of H = 1/2 sum_k (A_k - x_k)^2 as the expectation of the matrix, by local values of H, and by those of the A_k."""
    monkeypatch.setattr("qsr.hamiltonians.pauli.CHUNK_NUMBERS", chunk)
    n, K = 4, 3
    basis = PauliBasis(pauli_strings(n, 2))
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(K, len(basis), dtype=torch.float64, generator=generator)
    x = torch.randn(K, dtype=torch.float64, generator=generator)
    psi = random_state(n)
    born = torch.from_numpy(abs(psi) ** 2)

    operators = basis.operators(coefficients) - x[:, None, None] * torch.eye(2**n)
    hamiltonian = 0.5 * (operators @ operators).sum(dim=0).numpy()
    expected = np.vdot(psi, hamiltonian @ psi).real

    values = basis.local_values(coefficients, configurations(n), all_ratios(basis, psi))
    assert values.shape == (2**n, K)
    by_operators = 0.5 * (born @ (values - x).abs().square()).sum()

    sums = [PauliSum(basis.strings, row.tolist()) for row in coefficients]
    identity = PauliSum(["I" * n], [1.0])
    total = 0.5 * sum(((a - float(shift) * identity).square() for a, shift in zip(sums, x, strict=True)), 0.0 * identity)
    squared = total.basis
    by_strings = born @ squared.local_values(total.coefficients[None], configurations(n), all_ratios(squared, psi))[:, 0].real
    assert by_operators.item() == pytest.approx(expected, abs=1e-12)
    assert by_strings.item() == pytest.approx(expected, abs=1e-12)


def test_gradient_of_local_values():
    basis = PauliBasis(pauli_strings(3, 2))
    psi = random_state(3)
    coefficients = torch.randn(2, 37, dtype=torch.float64, requires_grad=True)
    ratios = all_ratios(basis, psi).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: basis.local_values(c, configurations(3), r), (coefficients, ratios))
    real = basis.local_values(coefficients, configurations(3), ratios.real)
    torch.testing.assert_close(real, basis.local_values(coefficients, configurations(3), ratios.real + 0j))


@pytest.mark.parametrize("strings", [[], ["XI", "X"], ["XA"], [""]])
def test_strings_that_are_refused(strings):
    with pytest.raises(ValueError, match="Pauli strings"):
        PauliBasis(strings)


def rydberg_terms(lattice, V, Omega, delta):
    """n = (1 - Z)/2 multiplied out."""
    N = lattice.num_sites
    terms = {}

    def add(value, **letters):
        string = "".join(letters.get(f"s{i}", "I") for i in range(N))
        terms[string] = terms.get(string, 0.0) + value

    distances = lattice.distances()
    for i in range(N):
        add(-Omega / 2, **{f"s{i}": "X"})
        add(-delta / 2)
        add(delta / 2, **{f"s{i}": "Z"})
        for j in range(i):
            quarter = V / distances[i, j] ** 6 / 4
            add(quarter)
            for sites in ((i,), (j,)):
                add(-quarter, **{f"s{site}": "Z" for site in sites})
            add(quarter, **{f"s{i}": "Z", f"s{j}": "Z"})
    return terms


def bond_terms(lattice, letters, sign=lambda letter: 1.0):
    N = lattice.num_sites
    return {
        "".join(letter if site in bond else "I" for site in range(N)): sign(letter)
        for bond in lattice.bonds().tolist()
        for letter in letters
    }


LATTICE = Lattice(2, 3, "periodic")
PAIRS = {
    "rydberg": (RydbergHamiltonian(LATTICE, 7.0, 1.5, 0.7), rydberg_terms(LATTICE, 7.0, 1.5, 0.7)),
    "tfim": (
        TransverseFieldIsing(LATTICE, J=1.3, h=0.4),
        {s: -1.3 for s in bond_terms(LATTICE, "Z")} | {"I" * i + "X" + "I" * (5 - i): -0.4 for i in range(6)},
    ),
    # After Marshall's rotation X X and Y Y of a bond change their sign.
    "heisenberg": (
        HeisenbergHamiltonian(Lattice(6, 1, "periodic"), J=1.3),
        bond_terms(Lattice(6, 1, "periodic"), "XYZ", lambda letter: 1.3 / 4 * (1 if letter == "Z" else -1)),
    ),
}


@pytest.mark.parametrize(("hamiltonian", "terms"), PAIRS.values(), ids=PAIRS)
def test_sums_equal_the_classes(hamiltonian, terms):
    found = PauliSum(list(terms), list(terms.values()), hamiltonian.lattice)
    assert found.is_stoquastic
    assert not found.is_complex
    np.testing.assert_allclose(found.to_sparse().toarray(), hamiltonian.to_sparse().toarray(), atol=1e-12)
    assert found.infinite_temperature_energy() == pytest.approx(hamiltonian.infinite_temperature_energy(), abs=1e-12)
    configs = configurations(6)[::5]
    torch.testing.assert_close(found.diagonal(configs), hamiltonian.diagonal(configs), rtol=0, atol=1e-12)
    assert found.connected(configs)[1].dtype == torch.float64


@pytest.mark.parametrize("chunk", [2**22, 40])
def test_matrix_of_a_sum_with_imaginary_elements(chunk, monkeypatch):
    monkeypatch.setattr("qsr.hamiltonians.pauli_sum.CHUNK_NUMBERS", chunk)
    found = random_sum(4, 30)
    assert found.is_complex
    assert not found.is_stoquastic
    np.testing.assert_allclose(found.to_sparse().toarray(), sum_matrix(found.terms()), atol=1e-13)


def test_equal_strings_are_added_up():
    found = PauliSum(["XI", "IZ", "XI"], [1.0, 2.0, 0.5])
    assert found.terms() == {"XI": 1.5, "IZ": 2.0}


def test_a_sum_on_more_sites_than_an_integer_has_bits():
    lattice = Lattice(10, 10)
    terms = {s: -1.3 for s in bond_terms(lattice, "Z")} | {"I" * i + "X" + "I" * (99 - i): -0.4 for i in range(100)}
    found, expected = PauliSum(list(terms), list(terms.values()), lattice), TransverseFieldIsing(lattice, J=1.3, h=0.4)
    configs = torch.randint(0, 2, (7, 100), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(found.diagonal(configs), expected.diagonal(configs), rtol=0, atol=1e-10)
    assert found.is_stoquastic
    masks, elements = found.connected(configs)
    assert torch.equal(masks, expected.connected(configs)[0])
    assert torch.equal(elements, expected.connected(configs)[1])


@pytest.mark.parametrize(
    ("terms", "stoquastic"),
    [
        ("- X0 X1 - Y0 Y1", True),
        ("X0 X1 + Y0 Y1", False),  # the antiferromagnet without Marshall's rotation
        ("- X0 X1 + Y0 Y1", True),
        ("- 0.9 X0 X1 + Y0 Y1", False),
        ("- X0 + X0 Z1", True),
        ("- X0 + 1.1 X0 Z1", False),
        ("- X0 + 0.6 X0 Z1 + 0.6 X0 Z2 + 0.6 X0 Z1 Z2", False),
        ("- X0 + 0.6 X0 Z1 + 0.6 X0 Z2 - 0.6 X0 Z1 Z2", True),  # at most -0.4: three signs, two of them free
        ("- X0 + 0.1 Y0", False),  # imaginary
        ("- X0 + 0 Y0", True),
        ("5 Z0 Z1 - 3", True),  # diagonal
        ("X0 - X0", True),
    ],
)
def test_stoquastic_is_what_the_matrix_says(terms, stoquastic):
    found = PauliSum.from_text(terms, Lattice(3, 1))
    matrix = sum_matrix(found.terms())
    off_diagonal = matrix - np.diag(np.diag(matrix))
    assert stoquastic == bool((off_diagonal.real <= 1e-12).all() and (abs(off_diagonal.imag) <= 1e-12).all())
    assert found.is_stoquastic == stoquastic


@pytest.mark.parametrize("seed", range(20))
def test_stoquastic_of_random_sums(seed):
    """One flip with signs that are products of each other, near the border."""
    generator = np.random.default_rng(seed)
    tails = ["".join(row) for row in generator.choice(["I", "Z"], (6, 4))]
    values = generator.normal(size=6)
    bound = (np.abs(values).sum()) * generator.uniform(0.3, 1.0)
    found = PauliSum(["XIIII", *("X" + tail for tail in tails)], [-bound, *values])
    matrix = sum_matrix(found.terms()).real
    assert found.is_stoquastic == bool((matrix - np.diag(np.diag(matrix))).max() <= 1e-12)


def test_too_many_signs_count_as_positive_unless_their_sizes_say_otherwise():
    tail = ["X" + "I" * i + "Z" + "I" * (16 - i) for i in range(17)]
    flip = ["X" + "I" * 17]
    assert PauliSum(flip + tail, [-17.0] + [1.0] * 17).is_stoquastic
    product = ["X" + "Z" * 17]  # the elements are at most zero, but only 2^17 trials would show it
    assert not PauliSum(flip + tail + product, [-17.0] + [1.0] * 17 + [-0.5]).is_stoquastic


def test_squares_and_products():
    a = random_sum(4, 25, seed=1)
    matrix = sum_matrix(a.terms())
    np.testing.assert_allclose(sum_matrix(a.square().terms()), matrix @ matrix, atol=1e-12)
    np.testing.assert_allclose(sum_matrix((a * a).terms()), matrix @ matrix, atol=1e-12)
    assert a.square().terms().keys() <= a.product(a).terms().keys()
    b = random_sum(4, 25, seed=2)
    np.testing.assert_allclose(sum_matrix((2.0 * a - b + b * 3).terms()), 2 * matrix + 2 * sum_matrix(b.terms()), atol=1e-12)
    np.testing.assert_allclose(sum_matrix((-a).terms()), -matrix, atol=1e-12)
    with pytest.raises(ValueError, match="do not commute"):
        a * b


def test_weight_of_a_square_at_most_doubles():
    basis = pauli_strings(5, 1)
    square = PauliSum(basis, np.random.default_rng(0).normal(size=len(basis)).tolist()).square()
    assert max(5 - string.count("I") for string in square.terms()) == 2


def test_operators_on_different_lattices_do_not_mix():
    with pytest.raises(ValueError, match="different lattices"):
        PauliSum(["XI"], [1.0]) + PauliSum(["XII"], [1.0])
    with pytest.raises(ValueError, match="on a lattice of 3 sites"):
        PauliSum(["XI"], [1.0], Lattice(3, 1))
    with pytest.raises(ValueError, match="1 strings and 2"):
        PauliSum(["XI"], [1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        PauliSum(["XI"], [float("nan")])


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("0.5 X0 Z3 + 1.2 Y1 Y2", {"XIIZ": 0.5, "IYYI": 1.2}),
        ("XIZI 0.5\nIYYI -1e-3\n ZZZZ", {"XIZI": 0.5, "IYYI": -1e-3, "ZZZZ": 1.0}),
        ("0.5 XIZI", {"XIZI": 0.5}),
        ("0.5 [X0 Z3] +\n(1.2+0j) [Y1 Y2] +\n-0.25 []", {"XIIZ": 0.5, "IYYI": 1.2, "IIII": -0.25}),
        ("- X0 X1 - 2*Z0*Z1 + 0.5 I - 3", {"XX": -1.0, "ZZ": -2.0, "II": -2.5}),
        ("XI - 0.5 ZZ # a comment\n\n+ .5 ZZ; YY", {"XI": 1.0, "ZZ": 0.0, "YY": 1.0}),
        ("X0 Y1 -0.5", {"XY": -0.5}),
        ("1 X0 -0.5", {"X": 1.0, "I": -0.5}),
        ("X10", {"I" * 10 + "X": 1.0}),
    ],
)
def test_text_that_is_read(text, terms):
    assert PauliSum.from_text(text).terms() == terms


def test_a_lattice_sets_the_number_of_sites():
    assert PauliSum.from_text("2 Z1", Lattice(2, 2)).terms() == {"IZII": 2.0}
    assert PauliSum.from_text("2", Lattice(2, 1)).terms() == {"II": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no terms"),
        ("0.5", "names no site"),
        ("X0 X0", "line 1: 'X0 X0': site 0 stands twice"),
        ("Z1\n0.5 x0", "line 2: 'x0' is not understood"),
        ("X0 +", "a sign with no term after it"),
        ("XI + ZZZ", "found lengths [2, 3]"),
        ("XI Z0", "'Z0' is not understood"),
        ("(1+2j) X0", "'(1+2j) X0': a coefficient must be a finite real number"),
        ("(one) X0", "a finite real number"),
        ("1e999 X0", "a finite real number"),
        ("0.5 0.6 X0", "'0.6 X0' is not understood"),
        ("[X0", "is not understood"),
        ("[X0 Q] + Z1", "'Q' in the bracket is no letter with a site"),
        ("X0 0.5 Z1", "'0.5 Z1' is not understood"),
        ("XI + Z2", "site 2 is named, and there are 2 sites"),
    ],
)
def test_text_that_is_refused(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        PauliSum.from_text(text)
    assert str(error.value).startswith("pauli.terms: ")
    assert "\n" not in str(error.value)


def test_text_for_another_lattice():
    with pytest.raises(ConfigError, match=r"^h\.txt: strings of 2 letters, and the lattice has 4 sites$"):
        PauliSum.from_text("XX", Lattice(2, 2), where="h.txt")
