"""Snapshots and text as sequences: ids as the samplers have them, masks and noise by the epoch, words of the training part."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsr import PTF, Lattice
from qsr.qembed.data import MaskedRows, NoisyRows, Sequences, SequencesHparams
from qsr.qembed.patches import PatchTokens, patch_ids
from qsr.qembed.text import Vocabulary
from qsr.snapshots import Snapshots, write_snapshots
from qsr.training import DataLoaderHparams
from qsr.training.supervised import DatasetSource
from tests.qembed.refused import fails

SIGMAS = 4.0


def snapshot_file(
    folder: Path, count: int = 60, shape: tuple[int, int] = (4, 6), name: str = "snapshots.h5", seed: int = 0
) -> Path:
    """Random configurations; two thirds have the label 0, and the others 3."""
    generator = np.random.default_rng(seed)
    configs = generator.integers(0, 2, size=(count, shape[0] * shape[1]), dtype=np.uint8)
    labels = np.where(np.arange(count) % 3 == 0, 3, 0)
    params = {"delta": generator.normal(size=count), "phase": (np.arange(count) % 2).astype(float)}
    lattice = Lattice(*shape)
    attributes = {"Lx": shape[0], "Ly": shape[1], "boundary": "open"}
    file = folder / name
    write_snapshots(file, Snapshots(configs, lattice.positions, {"labels": labels}, params, attributes))
    return file


def sequences(file: Path, **settings: object) -> Sequences:
    return Sequences(SequencesHparams(file=str(file), **{"seed": 1, **settings}))


@pytest.mark.parametrize(("shape", "patch"), [((4, 6), "2x3"), ((4, 6), "4"), ((12, 1), "3"), ((3, 4), "1x2")])
def test_ids_are_the_tokens_of_the_samplers(shape: tuple[int, int], patch: str) -> None:
    lattice = Lattice(*shape)
    sampler = PTF(patch=patch, Nh=8, nhead=2).build(lattice)
    configs = torch.randint(2, (40, lattice.num_sites), dtype=torch.uint8)
    code = PatchTokens.of_lattice(shape, patch)
    assert torch.equal(code.encode(configs), sampler.encode(configs)) and torch.equal(code.token_sites, sampler.token_sites)
    assert code.num_words == sampler.num_values and (code.bos, code.mask) == (code.num_words, code.num_words + 1)
    assert code.vocab_size == code.num_words + 2
    for same in (configs[..., None], configs.float(), configs.bool(), configs.double()[..., None]):
        assert torch.equal(code.encode(same), sampler.encode(configs))


def test_the_bit_of_a_site() -> None:
    configs = torch.zeros(1, 8, dtype=torch.uint8)
    configs[0, 3] = 1  # site (0, 3): second of the second row of no patch, the second of the first row of the second 2x2 patch
    assert patch_ids(configs, torch.from_numpy(Lattice(2, 4).patches("2x2"))).tolist() == [[0, 2]]


@pytest.mark.parametrize("configs", [torch.tensor([[0, 2]]), torch.tensor([[0.5, 1.0]]), torch.tensor([[-1, 1]])])
def test_other_values_than_0_and_1_are_refused(configs: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="configs: must hold 0"):
        patch_ids(configs, torch.tensor([[0, 1]]))


def test_another_number_of_sites_is_refused() -> None:
    with pytest.raises(ValueError, match=r"configs: must be \(B, 4\)"):
        patch_ids(torch.zeros(2, 5), torch.tensor([[0, 1], [2, 3]]))


def test_classes_of_snapshots(tmp_path: Path) -> None:
    data = sequences(snapshot_file(tmp_path), task="classify", patch="2x3")
    settings = data.thparams
    assert settings.classes == (0, 3) and settings.sha256 is not None and settings.vocabulary is None
    assert [len(part) for part in (data.train, data.val, data.test)] == [48, 6, 6]
    for part in (data.train, data.val, data.test):  # every class is divided alike
        assert int((part.columns["labels"] == 1).sum()) * 3 == len(part)
    batch = data.train.rows(torch.arange(5))
    assert {name: column.shape for name, column in batch.items()} == {"input_ids": (5, 4), "labels": (5,)}
    whole = torch.cat([part.columns["input_ids"] for part in (data.train, data.val, data.test)])
    assert torch.equal(whole.sort(dim=0).values, data.full.columns["input_ids"].sort(dim=0).values)
    by_parameter = sequences(Path(str(settings.file)), task="classify", patch="2x3", target="phase")
    assert by_parameter.thparams.classes == (0, 1)


def test_one_patch_is_masked_and_another_one_in_the_next_epoch(tmp_path: Path) -> None:
    data = sequences(snapshot_file(tmp_path, count=3000), task="mlm", patch="2x2")
    train = data.train
    assert isinstance(train, MaskedRows)
    source = DatasetSource(train, DataLoaderHparams(batch_size=70, shuffle=True), seed=5, training=True)
    true = train.columns["input_ids"]

    def epoch(number: int, first: int = 0) -> torch.Tensor:
        return torch.cat([batch["labels"] for batch in source.batches(number, first)])

    for batch in source.batches(0, 0):
        hidden = batch["input_ids"] == 2**4 + 1
        assert bool((hidden.sum(dim=1) == 1).all()) and torch.equal(hidden, batch["labels"] != -100)
        restored = torch.where(hidden, batch["labels"], batch["input_ids"])
        assert bool((restored[:, None] == true).all(dim=2).any(dim=1).all())
    assert torch.equal(epoch(0), epoch(0))
    in_order = DatasetSource(train, DataLoaderHparams(), seed=5, training=True)
    first, second = (next(in_order.batches(number, 0))["labels"] for number in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(epoch(2, first=3), epoch(2)[3 * 70 :])  # a run that is resumed sees the same
    counts = (epoch(0) != -100).sum(dim=0).double()
    expected = len(true) / 6
    assert bool(((counts - expected).abs() < SIGMAS * (expected * 5 / 6) ** 0.5).all())
    validation = DatasetSource(data.val, DataLoaderHparams(shuffle=True), seed=5, training=False)
    first, again = ([batch["input_ids"] for batch in validation.batches(0, 0)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_noise_has_its_rates_and_the_labels_are_the_truth(tmp_path: Path) -> None:
    e10, e01 = 0.15, 0.03
    data = sequences(snapshot_file(tmp_path, count=2000), task="denoise", patch="2x3", e10=e10, e01=e01)
    train = data.train
    assert isinstance(train, NoisyRows)
    batches = list(DatasetSource(train, DataLoaderHparams(), seed=5, training=True).batches(3, 0))
    ids, labels = (torch.cat([batch[name] for batch in batches]) for name in ("input_ids", "labels"))
    assert torch.equal(labels, train.columns["configs"].float())
    bits = ids[..., None] // 2 ** torch.arange(6) % 2
    noisy = torch.empty_like(labels, dtype=torch.long)
    noisy[:, data.code.token_sites.flatten()] = bits.flatten(1)
    for state, rate in ((1, e10), (0, e01)):
        flipped = (noisy != labels)[labels == state].double()
        assert abs(float(flipped.mean()) - rate) < SIGMAS * (rate * (1 - rate) / len(flipped)) ** 0.5


def test_pairs_of_noisy_and_clean_snapshots(tmp_path: Path) -> None:
    noisy, clean = snapshot_file(tmp_path), snapshot_file(tmp_path, name="clean.h5", seed=1)
    data = sequences(noisy, task="denoise", patch="2x3", clean=str(clean))
    truth = sequences(clean, task="denoise", patch="2x3", e10=0.1)
    assert torch.equal(data.full.columns["labels"], truth.full.columns["configs"].float())
    assert torch.equal(data.full.columns["input_ids"], sequences(noisy, task="classify", patch="2x3").full.columns["input_ids"])
    assert len(data.train) == 48 and data.thparams.sha256 != truth.thparams.sha256


def text_file(folder: Path) -> Path:
    file = folder / "text.csv"
    rows = [f'"a b{row}, c",{"warm" if row % 2 else "cold"}' for row in range(20)]
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return file


def test_the_vocabulary_is_that_of_the_training_part(tmp_path: Path) -> None:
    data = sequences(text_file(tmp_path), task="classify", bos=True)
    words = data.thparams.vocabulary
    assert words is not None and data.thparams.classes == ("cold", "warm")
    assert {"a", "c"} <= set(words) and sum(word.startswith("b") for word in words) == 16
    code = data.code
    assert isinstance(code, Vocabulary)
    assert (code.padding, code.unknown, code.mask, code.bos) == tuple(range(len(words), len(words) + 4))
    held = torch.cat([part.columns["input_ids"] for part in (data.val, data.test)])
    expected = [code.bos, words.index("a"), code.unknown, words.index("c")]
    assert held.tolist() == [expected] * 4
    assert code.unknown not in data.train.columns["input_ids"]
    same = sequences(text_file(tmp_path), task="classify", vocabulary=("c", "a"))
    assert same.full.columns["input_ids"][0].tolist() == [1, 3, 0]


def test_sentences_of_lines_and_characters(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("ab\n\n a  ba\nb\n" * 5, encoding="utf-8")
    data = sequences(file, task="mlm", tokens="characters", split=(0.8, 0.2))
    assert data.thparams.vocabulary == (" ", "a", "b") and data.test is None
    columns = data.full.columns
    assert columns["input_ids"][:3].tolist() == [[1, 2, 3, 3], [1, 0, 2, 1], [2, 3, 3, 3]]
    assert torch.equal(columns["attention_mask"], (columns["input_ids"] != 3).long())
    batch = data.full.rows(torch.arange(15))  # no special token is hidden
    hidden = batch["labels"] != -100
    assert bool((hidden.sum(dim=1) == 1).all()) and int(batch["labels"].max()) == 2
    assert bool((batch["attention_mask"][hidden] == 1).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "classify", "target": "delta"}, "data.target=delta: 1.02885 in row 1 is no class"),
        ({"task": "classify", "target": "colour"}, "no column 'colour' of classes; there are labels, delta, phase"),
        ({"task": "classify", "patch": None}, "qembed.patch: missing"),
        ({"task": "classify", "patch": "5"}, "qembed.patch=5: does not divide the 24 sites"),
        ({"task": "classify", "patch": "4x6"}, "qembed.patch=4x6: has 2^24 states"),
        ({"task": "classify", "e10": 0.1}, "data.e10=0.1: is for task=denoise"),
        ({"task": "mlm", "target": "labels"}, "data.target=labels: is for task=classify"),
        ({"task": "denoise"}, "data.e10: give the readout errors"),
        ({"task": "denoise", "e01": 1.5}, "data.e01=1.5: must be at most 1"),
        ({"task": "denoise", "clean": "c.h5", "e10": 0.1}, "data.e10=0.1: noise is added to clean snapshots"),
        ({"task": "denoise", "clean": "c.h5"}, "c.h5: no such file"),
        ({"task": None}, "data.task: missing"),
        ({"task": "classify", "split": (0.9, 0.2)}, "dataset_split must sum to 1"),
        ({"task": "mlm", "split": (0.001, 0.999)}, "leaves a part or a class without rows"),
        ({"task": "classify", "classes": (0, 1)}, "3 is no class of the training data: 0, 1"),
        ({"task": "classify", "sha256": "0"}, "has changed since data.sha256=0 was taken"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    file = snapshot_file(tmp_path)
    assert message in fails(lambda: sequences(file, **{"patch": "2x3", **settings}))


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    text, empty, other = text_file(tmp_path), tmp_path / "empty.txt", tmp_path / "other.csv"
    empty.write_text(" \n", encoding="utf-8")
    other.write_text("sentence,label\na,b\n", encoding="utf-8")
    assert "has no sentences" in fails(lambda: sequences(empty, task="mlm"))
    assert "no column 'text'" in fails(lambda: sequences(other, task="classify"))
    other.write_text("text,label\na,x\n ,y\n", encoding="utf-8")
    assert "row 2 has no text" in fails(lambda: sequences(other, task="classify"))
    other.write_text("text,label\na,x\nb,\n", encoding="utf-8")
    assert "row 2 has no label" in fails(lambda: sequences(other, task="classify"))
    other.write_text("text,label\na,x\nb,x\n", encoding="utf-8")
    assert "all rows have the class x" in fails(lambda: sequences(other, task="classify"))
    assert "qembed.patch=2x2: is for snapshots" in fails(lambda: sequences(text, task="classify", patch="2x2"))
    assert "task=denoise cleans snapshots" in fails(lambda: sequences(text, task="denoise", e10=0.1))
    empty.write_bytes(b"\xff\xfe\xfa")
    assert "not a text in UTF-8" in fails(lambda: sequences(empty, task="mlm"))
    empty.rename(tmp_path / "no.h5")
    assert "not a snapshot file" in fails(lambda: sequences(tmp_path / "no.h5", task="mlm"))
    assert "no such file" in fails(lambda: sequences(tmp_path / "nothing.h5", task="mlm"))
    assert "not here; the run names its data" in fails(lambda: sequences(Path("nothing.h5"), task="mlm", sha256="0"))
    small = snapshot_file(tmp_path, shape=(2, 6), name="small.h5")
    snapshots = snapshot_file(tmp_path)
    assert "has 60 of 2x6 sites" in fails(lambda: sequences(snapshots, task="denoise", patch="2x3", clean=str(small)))
    file = tmp_path / "wrong.h5"
    lattice = Lattice(2, 2)
    write_snapshots(file, Snapshots(np.full((3, 4), 2, dtype=np.uint8), lattice.positions, attributes={"Lx": 2, "Ly": 2}))
    assert "configs must hold 0 (ground) and 1 (excited), found 2" in fails(lambda: sequences(file, task="mlm", patch="2"))
    write_snapshots(file, Snapshots(np.zeros((3, 4), dtype=np.uint8), lattice.positions, attributes={"Lx": 2, "Ly": 3}))
    assert "Lx x Ly = 2x3 does not have its 4 sites" in fails(lambda: sequences(file, task="mlm", patch="2"))
