"""A bare module with a calibration function."""

import copy

import pytest
import torch
from torch import nn

import vq
from vq.compressors.layers.linear import QuantizedLinear
from vq.errors import VqError

OPTIONS = vq.CompressOptions(codebook="scalar(bits=3)")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


class Net(nn.Module):
    """Two blocks, a layer before, and a head that is tied to the embedding."""

    def __init__(self, width=24):
        super().__init__()
        self.table = nn.Embedding(30, width)
        self.enter = nn.Linear(width, width)
        self.layers = nn.ModuleList([Block(width) for _ in range(2)])
        self.head = nn.Linear(width, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.enter(self.table(ids))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def data(seed=0):
    return torch.randint(30, (8, 16), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def run(module):
    with torch.no_grad():
        return module(data(9))


def test_packed_layers_stand_for_dense_ones(net):
    original = copy.deepcopy(net)
    before = run(net)
    model, report = vq.compress_module(net, lambda m: m(data()), options=OPTIONS)
    assert model is net and not any("always zero" in line for line in report.warnings)
    names = ["layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "enter"]
    assert list(report.layers) == names
    assert report.left_alone == {"table.weight": 30 * 24} and 0 < report.share_left < 0.2
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        layer.mode = "float"
        original.get_submodule(name).weight.data = layer.dequantize()
    torch.testing.assert_close(run(model), run(original), atol=1e-4, rtol=1e-4)
    assert 0.01 < float((run(model) - before).norm() / before.norm()) < 0.5
    stored = sum(model.get_submodule(n).stored_bytes for n in names)
    weights = sum(original.get_submodule(n).weight.numel() for n in names)
    assert report.bits_per_weight >= 8 * stored / weights - 1e-4


def test_calibration_beats_rounding_to_nearest(net):
    """Far, where inputs go together."""
    torch.manual_seed(1)
    net.table.weight.data = torch.randn(30, 4) @ torch.randn(4, 24) / 2 + 0.1 * torch.randn(30, 24)

    def error(**options):
        model = copy.deepcopy(net)
        chosen = vq.CompressOptions(codebook="scalar(bits=2)", **options)
        vq.compress_module(model, lambda m: m(data()), options=chosen)
        return float((run(model) - run(net)).norm())

    assert error() < 0.7 * error(rounding="nearest")


def test_every_block_sees_the_quantized_ones_before_it(net):
    calls = []

    def calibrate(model):
        with torch.no_grad():
            calls.append([type(model.layers[0].a).__name__, model(data())])

    vq.compress_module(net, calibrate, options=OPTIONS)
    assert len(calls) > 3 and not torch.equal(calls[0][1], calls[-1][1])
    calls.clear()
    torch.manual_seed(0)
    whole = vq.CompressOptions(codebook="scalar(bits=3)", calibrate_on="original")
    vq.compress_module(Net(), calibrate, options=whole)
    assert all(torch.equal(calls[0][1], call[1]) for call in calls)


def test_save_and_load(net, tmp_path):
    options = vq.CompressOptions(codebook="kmeans(dim=2, entries=16)", layers={"enter": "keep"})
    model, _ = vq.compress_module(net, lambda m: m(data()), options=options)
    vq.save_module(model, tmp_path / "net.safetensors")
    again = vq.load_module(Net(), tmp_path / "net.safetensors")
    assert torch.equal(run(again), run(model))
    assert type(again.enter) is nn.Linear
    assert again.head.weight.data_ptr() == again.table.weight.data_ptr()
    vq.save_module(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "net.safetensors"
    ).read_bytes()
    with pytest.raises(VqError, match="which the module does not have"):
        vq.load_module(nn.Sequential(nn.Linear(3, 3)), tmp_path / "net.safetensors")


def test_wrong_use_is_refused(net, tmp_path):
    with pytest.raises(VqError, match="needs calibrate"):
        vq.compress_module(net, options=OPTIONS)
    with pytest.raises(VqError, match="no linear layer"):
        vq.compress_module(nn.LayerNorm(4))
    with pytest.raises(VqError, match="'x' matches no layer"):
        options = vq.CompressOptions(codebook="scalar(bits=2)", layers={"x": "keep"})
        vq.compress_module(net, lambda m: m(data()), options=options)
    with pytest.raises(VqError, match="no packed layer"):
        vq.save_module(net, tmp_path / "x")


def test_without_data_it_rounds_to_nearest():
    model, report = vq.compress_module(
        nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    )
    assert list(report.layers) == ["0", "2"] and model(torch.ones(1, 16)).shape == (1, 4)
