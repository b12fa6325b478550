"""`qsr train` on two nodes, each a torchrun of its own that meets the other at a port: a run, and a node that is lost."""

from pathlib import Path

import pytest

from qsr.runs import RunDirectory
from tests.cli.test_several_processes import RUN, STEPS, WORDS, check_same, undisturbed
from tests.commands import run_qsr
from tests.torchrun import Node, kill_node, members, nodes

LINE = f"step {STEPS // 20}/{STEPS}"


def lose_the_second(both: list[Node], line: str = LINE) -> tuple[str, str]:
    """Kill the second node after a line of the first, and wait for that one's end: what it printed."""
    first, second = both
    assert first.stderr is not None
    assert any(said.startswith(line) for said in first.stderr)
    kill_node(second)
    return first.communicate(timeout=200)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_does(tmp_path: Path) -> None:
    with nodes("qsr", *f"{WORDS}{tmp_path / 'shared'}".split()) as both:
        said = [node.communicate(timeout=200) for node in both]
    assert [node.returncode for node in both] == [0, 0], said
    assert sum(output.count("done: ") for output, _ in said) == 1, "only the first process speaks"
    assert [path.name for path in (tmp_path / "shared" / RUN).iterdir()] == ["0"]
    check_same(RunDirectory(tmp_path / "shared" / RUN / "0"), undisturbed(tmp_path / "alone"))


@pytest.mark.slow
def test_a_lost_node_ends_the_other_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    with nodes("qsr", *f"{WORDS}{tmp_path / 'shared'}".split()) as both:
        _, errors = lose_the_second(both)
        assert members(both[0]) == members(both[1]) == []
    assert both[0].returncode == 1 and "Error: another process of the run has ended or does not answer" in errors
    path = tmp_path / "shared" / RUN / "0"
    resumed = run_qsr("train", "--resume", str(path))
    assert resumed.returncode == 0, resumed.stderr
    check_same(RunDirectory(path), undisturbed(tmp_path / "alone"))


@pytest.mark.slow
def test_a_run_that_may_do_with_one_node_goes_on_with_it(tmp_path: Path) -> None:
    with nodes("qsr", *f"{WORDS}{tmp_path / 'shared'}".split(), least=1, restarts=1) as both:
        output, errors = lose_the_second(both)
        assert members(both[0]) == []
    assert both[0].returncode == 0, errors
    assert output.count("done: ") == 1
    path = tmp_path / "shared" / RUN / "0"
    assert f"resuming {path} at step " in errors
    check_same(RunDirectory(path), undisturbed(tmp_path / "alone"))
