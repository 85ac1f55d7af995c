"""The comparison with other packages: equal work, honest errors, and what is missing is said."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"


@pytest.fixture
def script(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("peers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OURS", ("scalar(bits=2)",))
    return module


def missing(out, width, copies, seed):
    raise ImportError("no package of this name")


def broken(out, width, copies, seed):
    raise RuntimeError("this processor lacks something")


def test_rows_and_what_is_left_out(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "PEERS", {"a": missing, "b": broken})
    options = ["--shape", "16", "24", "--batch", "1", "3", "--copies", "2", "--rounds", "2"]
    assert script.main([*options, "--json", "-"]) == 0
    import json

    told = capsys.readouterr()
    data = json.loads(told.out)
    assert "a is left out: no package" in told.err and "b does not run here" in told.err
    names = [row["name"] for row in data["rows"] if row["batch"] == 3]
    own = [f"vq scalar(bits=2) {mode}" for mode in script.MODES]
    assert names == ["torch float32", "torch bfloat16", *own]
    for row in data["rows"]:
        assert row["ms"] > 0 and row["ratio_fp32"] > 0 and (row["out"], row["in"]) == (16, 24)
        assert row["rel_error"] < (1e-2 if "float32" not in row["name"] else 1e-5)
    assert data["rows"][0]["ratio_fp32"] == 1 and data["rows"][0]["bits_per_weight"] == 32
    assert script.main(options) == 0
    assert "x fp32" in capsys.readouterr().out


def test_every_layer_has_its_turn_in_every_round(script):
    log = []
    peers = {
        name: script.Peer(2.0, lambda x, i, name=name: log.append((name, i)), torch.zeros(1, 1))
        for name in "ab"
    }
    times = script.timed(peers, torch.zeros(1, 1), 1)
    assert log == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert [len(own) for own in times.values()] == [1, 1]


def test_packed_codes_and_their_matrix(script):
    layers = sys.modules["peer_layers"]
    codes, scales, dense = layers._uniform(3, 256, 2, 0)
    packed = layers._packed(codes, 2)
    again = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], -1).reshape(codes.shape)
    assert (again == codes).all() and packed.shape == (3, 2, 32)
    value = (float(codes[2, 1, 5]) - 2) * float(scales[2, 1])
    assert float(dense[2, 133]) == pytest.approx(value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "aqlm", "auto", "bitsandbytes"])
def test_peers_multiply_by_the_matrix_they_say(script, name):
    """Runs only where the package is installed."""
    for peer, make in script.PEERS.items():
        if peer.startswith(name):
            try:
                layer = make(256, 512, 2, 0)
            except ImportError as error:
                pytest.skip(str(error))
            x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                y = torch.as_tensor(layer.call(x, 1)).float()
            exact = x @ layer.dense.T
            assert float((y - exact).norm() / exact.norm()) < 2e-2
            assert 2 <= layer.bits_per_weight < 5
