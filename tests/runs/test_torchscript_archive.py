"""Archives that torch.jit really wrote are read bit for bit; archives that want to run something are refused."""

import builtins
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.runs import read_archive

# torch.jit is deprecated; the archives it left are not.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")


class Recurrent(nn.Module):
    """The shape of NN-QSR's RNN: a GRU, a head, and constants that are not in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 8)
        self.lin = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 16), nn.Softmax(dim=-1))
        self.tail = self.lin[2:]  # the same parameters under a second name
        self.options = torch.randn(16, 4)
        self.sizes = [2, 2]
        self.rates = [0.5]
        self.kind = "GRU"
        self.device = torch.device("cpu")
        self.tables = [torch.ones(2)]

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(self.rnn(x)[0] + self.options.sum() + self.tables[0].sum())


class Stack(nn.Module):
    """A transformer's parameters and buffers of every kind: views, numbers of all widths, an empty and a scalar one."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.transposed = nn.Parameter(torch.randn(3, 5).T)
        self.sliced = nn.Parameter(torch.randn(6, 4)[1:4, ::2])
        for kind in ("float64", "float16", "bfloat16", "complex64"):
            self.register_parameter(f"of_{kind}", nn.Parameter(torch.randn(3).to(getattr(torch, kind))))
        for kind in ("int64", "int32", "int16", "int8", "uint8", "bool"):
            self.register_buffer(f"of_{kind}", torch.tensor([0, 1, 1]).to(getattr(torch, kind)))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("scalar", torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.scalar


@pytest.fixture(scope="module")
def modules() -> dict[str, torch.jit.ScriptModule]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mark above does not reach fixtures of the module
        return {kind.__name__: torch.jit.script(kind()) for kind in (Recurrent, Stack)}


def saved(module: torch.jit.ScriptModule, path: Path) -> Path:
    module.save(str(path))
    return path


@pytest.mark.parametrize("kind", ["Recurrent", "Stack"])
@pytest.mark.parametrize("name", ["T", "model.pt"])
def test_tensors_equal_the_state_dict(modules, tmp_path: Path, kind: str, name: str) -> None:
    expected = modules[kind].state_dict()
    found = read_archive(saved(modules[kind], tmp_path / name))
    assert found.keys() == expected.keys() and "options" not in found
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape, key
        assert found[key].is_contiguous() and not found[key].requires_grad
        assert torch.equal(found[key].flatten().view(torch.uint8), tensor.detach().contiguous().flatten().view(torch.uint8)), key


def repacked(
    source: Path, target: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.fixture
def archive(modules, tmp_path: Path) -> Path:
    return saved(modules["Recurrent"], tmp_path / "T")


def test_without_source_text_every_tensor_is_kept(modules, archive: Path, tmp_path: Path) -> None:
    bare = repacked(archive, tmp_path / "bare", lambda name, content: None if name.startswith("code/") else content)
    found = read_archive(bare)
    assert found.keys() == {*modules["Recurrent"].state_dict(), "options"}
    assert torch.equal(found["options"], modules["Recurrent"].options)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data/3", lambda content: None, "incomplete: it has no data/"),
        ("data/3", lambda content: content[:-4], r"data/3 has \d+ bytes, expected"),
        ("data.pkl", lambda content: None, "expected one NAME/data.pkl"),
        ("data.pkl", lambda content: content[:200], "data.pkl is damaged"),
        ("data.pkl", lambda content: b"nonsense", "data.pkl is damaged"),
        ("data.pkl", lambda content: pickle.dumps({"a": 1}), "holds a dict, expected a scripted module"),
        ("byteorder", lambda content: b"big", "not little-endian"),
    ],
)
def test_damaged_contents(archive: Path, tmp_path: Path, name: str, change, message: str) -> None:
    broken = repacked(archive, tmp_path / "broken", lambda found, content: change(content) if found == name else content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_archive(broken)
    assert str(caught.value).startswith(f"{broken}: ") and "\n" not in str(caught.value)


def test_compressed_contents_are_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compressed"):
        read_archive(repacked(archive, tmp_path / "small", lambda name, content: content, zipfile.ZIP_DEFLATED))


def test_damaged_files(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    with zipfile.ZipFile(archive) as opened:
        weights = opened.read("T/data/3")
    flipped[whole.index(weights) + 5] ^= 1
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-10], bytes(flipped)):
        archive.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^{archive}: not a readable TorchScript archive"):
            read_archive(archive)
    with pytest.raises(ConfigError, match="No such file"):
        read_archive(tmp_path / "missing")


# --- archives that attack -----------------------------------------------------------------------------------------------


def with_pickle(archive: Path, target: Path, content: bytes) -> Path:
    return repacked(archive, target, lambda name, old: content if name == "data.pkl" else old)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("attack", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "pickle.loads", "nested"])
def test_code_is_refused_and_not_executed(archive: Path, tmp_path: Path, attack: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    statement = f"open({str(mark)!r}, 'w').close()"
    payload = {
        "os.system": Calls(os.system, f"touch {mark}"),
        "builtins.eval": Calls(builtins.eval, statement),
        "builtins.getattr": Calls(builtins.getattr, "text", "upper"),
        "torch.load": Calls(torch.load, str(archive)),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(builtins.exec, statement))),
        "nested": {"harmless": [1, 2.0, "x"], "list": [Calls(builtins.exec, statement)]},
    }[attack]
    with pytest.raises(ConfigError, match=r"its pickle asks for '[\w.]+'; only tensors and plain containers"):
        read_archive(with_pickle(archive, tmp_path / "bad", pickle.dumps(payload, protocol=protocol)))
    assert not mark.exists()


def assembled(*parts: bytes) -> bytes:
    """A pickle of a module whose only attribute is made by `parts`."""
    return b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00w" + b"".join(parts) + b"ub."


STORAGE = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x003X\x03\x00\x00\x00cpuM\xc0\x00tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def strided(offset: bytes, size: bytes, stride: bytes) -> bytes:
    return REBUILD + STORAGE + offset + b"(" + size + b"t(" + stride + b"t\x89}tR"


def test_the_assembled_pickle_is_one(archive: Path, tmp_path: Path) -> None:
    bare = repacked(archive, tmp_path / "bare", lambda name, content: None if name.startswith("code/") else content)
    with zipfile.ZipFile(archive) as opened:
        numbers = torch.frombuffer(bytearray(opened.read("T/data/3")), dtype=torch.float32)
    assert len(numbers) == 192, "the storage that the tests below point into"
    found = read_archive(with_pickle(bare, tmp_path / "good", assembled(strided(b"K\x02", b"K\x03K\x04", b"K\x10K\x01"))))
    assert torch.equal(found["w"], numbers.as_strided((3, 4), (16, 1), 2))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (strided(b"K\xbf", b"K\x02", b"K\x01"), "beyond its 192 numbers"),
        (strided(b"K\x00", b"K\xc1", b"K\x01"), "beyond"),
        (strided(b"K\x00", b"K\x02", b"M\xff\xff"), "beyond"),
        (strided(b"K\x00", b"J\xff\xff\xff\x7f", b"K\x00"), "beyond"),  # two thousand million copies of one number
        (strided(b"J\xff\xff\xff\xff", b"K\x01", b"K\x01"), "impossible shape"),
        (strided(b"K\x05", b"K\x02", b"J\xff\xff\xff\xff"), "impossible shape"),
        (strided(b"K\x00", b"K\x02", b"K\x01K\x01"), "impossible shape"),
        (strided(b"\x88", b"K\x02", b"K\x01"), "impossible shape"),
        (strided(b"K\x00", b"X\x01\x00\x00\x00a", b"K\x01"), "impossible shape"),
        (REBUILD + b"(K\x01K\x00(K\x01t(K\x01t\x89}tR", "impossible shape"),
        (STORAGE.replace(b"X\x01\x00\x00\x003", b"X\x05\x00\x00\x00../xx")[1:], "not a storage"),
        (b"(X\x07\x00\x00\x00storage}X\x01\x00\x00\x003NK\x01tQ", "not a storage"),
        (STORAGE[1:] + b"}(X\x01\x00\x00\x00aK\x01ub", "damaged"),  # sets an attribute on what stands for a tensor
        (REBUILD + b"}(X\x01\x00\x00\x00aK\x01ub", "damaged"),  # or on the function that makes one
        (REBUILD + b"N}(X\x08\x00\x00\x00__call__K\x01u\x86b", "damaged"),
    ],
    ids=[
        "last element",
        "more elements than numbers",
        "stride",
        "copies of one number",
        "negative offset",
        "negative stride",
        "too many strides",
        "boolean offset",
        "text as size",
        "number as storage",
        "path as storage",
        "mapping as type",
        "attribute of a storage",
        "attribute of a function",
        "attribute of a function, by slots",
    ],
)
def test_tensors_outside_their_storage(archive: Path, tmp_path: Path, view: bytes, message: str) -> None:
    bare = repacked(archive, tmp_path / "bare", lambda name, content: None if name.startswith("code/") else content)
    with pytest.raises(ConfigError, match=message):
        read_archive(with_pickle(bare, tmp_path / "bad", assembled(view)))


def test_a_module_inside_itself(archive: Path, tmp_path: Path) -> None:
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00mh\x00ub."
    with pytest.raises(ConfigError, match="nested more than"):
        read_archive(with_pickle(archive, tmp_path / "bad", loop))


def test_reading_needs_no_torch_jit_class_of_the_archive(archive: Path) -> None:
    before = set(sys.modules)
    read_archive(archive)
    assert not [name for name in set(sys.modules) - before if name.startswith("__torch__")]
