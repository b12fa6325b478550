"""The `--pauli` section: terms or a file of them, the lattice, and what is refused."""

import numpy as np
import pytest

from qsr.hamiltonians import Pauli, PauliSum, Rydberg
from qsr.hparams import ConfigError, RunSettings

TERMS = "0.5 X0 Z3 + 1.2 Y1 Y2"


def test_terms_on_a_chain():
    settings = Pauli(terms=TERMS)
    assert settings.shape == (4, 1) and settings.num_sites == 4
    hamiltonian = settings.build()
    assert isinstance(hamiltonian, PauliSum)
    assert hamiltonian.terms() == {"XIIZ": 0.5, "IYYI": 1.2}
    assert settings.describe() == "pauli 4x1 open: 2 terms on 4 sites"


@pytest.mark.parametrize(("given", "shape"), [({"Lx": 2, "Ly": 2}, (2, 2)), ({"Ly": 2}, (2, 2)), ({"Lx": 4}, (4, 1))])
def test_terms_on_a_lattice(given, shape):
    settings = Pauli(terms=TERMS, **given, boundary="periodic")
    assert settings.shape == shape
    assert settings.build().lattice.shape == shape
    assert settings.lattice().boundary == "periodic"


def test_a_larger_lattice_than_the_terms_name():
    assert Pauli(terms="X0", Lx=2, Ly=3).build().terms() == {"XIIIII": 1.0}


def test_a_file_is_read_once_and_stored_as_terms(tmp_path):
    file = tmp_path / "h.txt"
    file.write_text(f"# a comment\n{TERMS}\n")
    settings = Pauli(file=file)
    assert settings == Pauli.from_text({"file": str(file)})
    file.unlink()
    tree = RunSettings.from_tree({"model": {"type": "rnn", "patch": 1}, "hamiltonian": settings}).tree()
    assert "file" not in tree["hamiltonian"]
    assert RunSettings.from_tree(tree).hamiltonian == settings
    assert RunSettings.from_tree(tree).train.L == 4


def test_other_terms_replace_the_stored_ones(tmp_path):
    file = tmp_path / "h.txt"
    file.write_text("Z0 Z3")
    stored = RunSettings.from_tree({"model": {"type": "rnn", "patch": 1, "phase": True}, "hamiltonian": Pauli(terms=TERMS)})
    for change in ({"file": str(file)}, {"terms": "Z0 Z3"}):
        assert stored.updated({"hamiltonian": change}).hamiltonian.build().terms() == {"ZIIZ": 1.0}
    back = stored.updated({"hamiltonian": Rydberg(Lx=2, Ly=2)})
    np.testing.assert_array_equal(back.hamiltonian.shape, (2, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"pauli\.terms: this setting is required"),
        ({"terms": "x0"}, r"pauli\.terms: line 1: 'x0' is not understood"),
        ({"terms": TERMS, "Lx": 1, "Ly": 2}, r"pauli\.terms: site 3 is named, and there are 2 sites"),
        ({"terms": "XXX", "Lx": 2, "Ly": 2}, r"pauli\.terms: strings of 3 letters, and the lattice has 4 sites"),
        ({"terms": "XXX", "Lx": 2}, r"pauli\.Lx=2: does not divide the 3 sites of the terms"),
        ({"terms": TERMS, "file": "h.txt"}, r"pauli\.file=h\.txt: excludes terms"),
        ({"file": "/no/such/file"}, r"pauli\.file=/no/such/file: cannot read the terms \(No such file or directory\)"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Pauli(**values)


def test_a_file_of_something_else(tmp_path):
    file = tmp_path / "h.txt"
    file.write_text("X0\n1.0 Q1\n")
    with pytest.raises(ConfigError, match=rf"pauli\.file={file}: line 2: '1\.0 Q1' is not understood|line 2: 'Q1'"):
        Pauli(file=file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        Pauli(file=file)
