"""Tokens a second of a compressed model: the same work for all models, and honest figures."""

import json

import pytest
import torch

from vq.analysis.bench.generate import measure, stored_bytes, write
from vq.cli.main import main

pytest.importorskip("transformers")
pytestmark = pytest.mark.hf


@pytest.fixture(scope="module")
def small(llama, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "small"
    command = ["compress", str(llama), "-o", str(folder), "--calibration", str(text)]
    options = ["--windows", "2", "--context", "32", "--codebook", "scalar(bits=2)"]
    assert main([*command, *options]) == 0
    return folder


def test_rows_of_three_models(small, llama, capsys):
    command = ["bench", "generate", str(small), "--prompt", "w1 w2 w3", "--tokens", "4"]
    capsys.readouterr()
    assert main([*command, "--rounds", "2", "--reference", str(llama), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["prompt_tokens"] == 3 and data["tokens"] == 4 and data["threads"] == 1
    assert [row["model"] for row in data["rows"]] == ["compressed", "float32", "bfloat16"]
    assert all(min(v for v in row.values() if not isinstance(v, str)) > 0 for row in data["rows"])
    assert data["rows"][0]["ratio"] == 1.0
    ours, full, half = (row["parameter_bytes"] for row in data["rows"])
    assert full == pytest.approx(2 * half, rel=0.01) and ours < full


def test_without_the_original_its_architecture_is_measured(small, capsys):
    command = ["bench", "generate", str(small), "--prompt", "w1", "--tokens", "2", "--rounds", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "random weights" in out and "tokens/s" in out and "bfloat16" in out


def test_a_plain_model_needs_its_original(llama, capsys):
    assert main(["bench", "generate", str(llama), "--rounds", "1"]) == 2
    assert "--reference" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--tokens", "1"], ["--rounds", "0"], ["--prompt", ""]])
def test_wrong_options_are_refused(small, capsys, wrong):
    assert main(["bench", "generate", str(small), *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


class Counted(torch.nn.Module):
    """Stands for a language model: says the token after the one it was given, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.tied = self.weight
        self.seen = []

    def forward(self, ids, past_key_values=None, use_cache=False, logits_to_keep=0):
        from types import SimpleNamespace

        self.seen.append((ids.tolist(), past_key_values))
        logits = torch.nn.functional.one_hot((ids[:, -1:] + 1) % 5, 5).float()
        return SimpleNamespace(logits=logits, past_key_values=len(self.seen))


def test_all_models_write_the_same_number_of_tokens_in_turns():
    models = {"a": Counted(), "b": Counted()}
    turns = []
    rows = measure(models, torch.tensor([[1, 2]]), tokens=3, rounds=2, done=turns.append)
    assert turns == ["a", "b", "b", "a", "a", "b"] and [row["model"] for row in rows] == ["a", "b"]
    asked = [([[1, 2]], None), ([[3]], 1), ([[4]], 2)]
    assert models["a"].seen[:3] == asked and len(models["b"].seen) == 9
    with pytest.raises(ValueError, match="at least 2 tokens"):
        measure(models, torch.tensor([[1]]), tokens=1)


def test_times_and_bytes():
    prompt, rest = write(Counted(), torch.tensor([[1]]), 3)
    assert prompt > 0 and rest > 0
    assert stored_bytes(Counted()) == 12
