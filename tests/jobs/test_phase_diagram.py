"""The picture of what a network says of each state: means and their errors, and which picture is drawn."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from qsr.jobs.phase_diagram import draw_phase_diagram, means_of_states, varying


def test_means_of_states_with_their_errors() -> None:
    keys = np.array([[2.0, 0.0], [1.0, 5.0], [2.0, 0.0], [1.0, 6.0], [2.0, 0.0]])
    points, mean, error = means_of_states(keys, np.array([1.0, 7.0, 3.0, 8.0, 5.0]))
    assert points.tolist() == [[1.0, 5.0], [1.0, 6.0], [2.0, 0.0]]
    assert mean.tolist() == [7.0, 8.0, 3.0]
    assert error == pytest.approx([0.0, 0.0, np.std([1, 3, 5], ddof=1) / np.sqrt(3)])


@pytest.mark.parametrize(
    ("names", "truth"), [(["delta"], None), (["delta"], "delta"), (["V", "delta"], None), (["V", "delta", "Omega"], None)]
)
def test_a_picture_where_a_parameter_varies(tmp_path: Path, names: list[str], truth: str | None) -> None:
    rng = np.random.default_rng(0)
    params = {name: rng.integers(0, 3, 60).astype(float) for name in names} | {"fixed": np.ones(60)}
    assert varying(params) == names
    found = {"p_0": rng.random(60)}
    assert draw_phase_diagram(params, found, tmp_path / "a.png", truth)
    assert image.imread(tmp_path / "a.png").std() > 0.05, "not an empty sheet"
    assert not draw_phase_diagram({"fixed": np.ones(60)}, found, tmp_path / "b.png") and not (tmp_path / "b.png").exists()
