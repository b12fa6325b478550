"""The benchmarks' common ground: turns, tables, references, JSON, and the picture."""

import json
import math

import plot
import pytest
import report


def test_turns_change_who_begins():
    assert list(report.turns(["a", "b", "c"], 3)) == list("abccbaabc")


def test_works_take_turns_and_are_timed():
    called = []
    works = {name: lambda name=name: called.append(name) for name in "ab"}
    times = report.in_turns(works, repeats=3, warm_up=1)
    assert called == list("ab" + "abbaab")
    assert len(times["a"].seconds) == 3
    timing = report.Timing((3.0, 1.0, 2.0))
    assert (timing.median, timing.low, timing.high) == (2.0, 1.0, 3.0)


def test_json_round_trip(tmp_path):
    rows = [{"name": "x", "seconds": report.Timing((1.0, 2.0, 4.0)), "bad": math.nan, "pair": (1, 2)}]
    path = report.save("made-up", {"rows": rows}, tmp_path)
    found = report.load("made-up", tmp_path)
    assert found["rows"] == [{"name": "x", "seconds": {"median": 2.0, "min": 1.0, "max": 4.0}, "bad": None, "pair": [1, 2]}]
    assert set(found["machine"]) == {"processor", "cores", "threads", "torch", "date"}
    assert path.name == "made-up.json" and [path] == list(tmp_path.iterdir())  # nothing temporary is left
    assert report.load("missing", tmp_path) is None


def test_table(capsys):
    table = report.Table({"name": 8, "value": 8})
    table.row("x", 1.23456)
    table.row("y", None)
    assert capsys.readouterr().out == "name       value\nx           1.23\ny              -\n"


def test_references():
    assert report.reference(4) == (pytest.approx(-0.45341321, abs=1e-8), True)
    assert report.reference(8) == (pytest.approx(-0.405680, abs=1e-6), True)
    assert report.reference(16) == (-0.380765, False)
    assert report.reference(32) == (-0.368911, False)


def made_up_results():
    timing = report.Timing((0.1, 0.2))
    curve = [{"seconds": 1.0 + i, "step": i, "energy": -0.4 - 0.001 * i, "error": 1e-4, "samples": 256} for i in range(3)]
    reached = {"0.01": 2.0, "0.001": None}
    accuracy = {
        "size": 8,
        "device": "the CPU",
        "reference": -0.405,
        "runs": [{"seed": 0, "reached": reached, "curve": curve}],
        "summary": [("0.01", 2.0, 2.0, 1), ("0.001", None, None, 0)],
    }
    study_row = {"window": "none", "weights": "learned", "flips": 1, "tokens": 10.0, "added": 0.1}
    products = {"size": 8, "seed": 0, "auto_product": 1e-5, "exact_product": 2e-5}
    return {
        "engine": {"quick": True, "rows": [{"name": "PTF", "flips_ratio": 2.0, "sampling_ratio": 3.0}]},
        "steps": {"rows": [{"name": "RNN", "seconds": {"sample": 0.1, "flips": 0.3, "rest": 0.1, "step": 0.5}}]},
        "flips": {
            "study": {"exact": {"variance": 0.01, "tokens": 480.0}, "rows": [study_row]},
            "steps": [{"model": "PTF", "window": "exact", "seconds": timing, "faster": 1.0, "product": 1.0}],
        },
        "flips-training": {"optimizer": "spring", "rows": [{"seconds": s, **products} for s in (1.0, 2.0)]},
        "scaling": {
            "rows": [{"size": size, "kind": "exact", "tokens": size**4.0, "seconds": size**3.0} for size in (8, 12)],
            "exponents": {"exact": {"tokens": 2.0, "seconds": 1.5}},
        },
        "overhead": {"rows": [{"name": "trainer", "overhead": 0.02}]},
        "accuracy-8x8": accuracy,
        "netket-8x8": {"rows": [{"name": "qsr", "seed": 0, "reached": {"0.01": 5.0, "0.003": 9.0}}]},
    }


def test_the_picture_is_drawn_from_what_there_is(tmp_path):
    assert plot.draw(tmp_path) is None
    for name, results in made_up_results().items():
        report.save(name, results, tmp_path)
    path = plot.draw(tmp_path)
    assert path == tmp_path / "bench.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_the_picture_of_runs_that_reached_nothing(tmp_path):
    empty = made_up_results()["accuracy-8x8"] | {"runs": [{"seed": 0, "curve": []}], "summary": [("0.01", None, None, 0)]}
    report.save("accuracy-8x8", empty, tmp_path)
    report.save("netket-8x8", {"rows": [{"name": "qsr", "seed": 0, "reached": {}}]}, tmp_path)
    assert plot.draw(tmp_path) is not None


def test_kept_results_can_be_drawn_and_name_no_paths():
    for file in report.RESULTS.glob("*.json"):
        assert not [word for word in json.dumps(json.loads(file.read_text())).split('"') if word.startswith("/")], file.name
