import json

import pytest
import torch

from vq.codebooks import build
from vq.compressors.checkpoint.size import measure_size
from vq.compressors.layers.embedding import QuantizedEmbedding, TiedHead
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.loading import load
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.errors import VqError

pytestmark = pytest.mark.hf


def options(**changes):
    given = {
        "codebook": "scalar(bits=2)",
        "embeddings": "uniform(bits=8)",
        "rounding": "nearest",
        "windows": 0,
    }
    return CompressOptions(**{**given, **changes})


@pytest.fixture(scope="module")
def tied(llama, tmp_path_factory):
    return compress(llama, tmp_path_factory.mktemp("e") / "out", options=options())


def relative(found, exact):
    found, exact = found.detach(), exact.detach()
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def test_a_tied_head_shares_the_codes_of_the_embeddings(tied, llama):
    model, dense = load(tied.output), load(llama)
    table, head = model.get_input_embeddings(), model.lm_head
    assert isinstance(table, QuantizedEmbedding) and isinstance(head, TiedHead)
    assert head.embedding is table and not list(head.parameters())
    exact = dense.get_input_embeddings().weight.detach()
    index = torch.tensor([[0, 5, 11]])
    assert relative(table(index), exact[index]) < 0.02
    assert relative(table.dequantize(), exact) < 0.02
    assert relative(table(index), table.dequantize()[index]) < 1e-3  # float16 comes back
    x = torch.randn(2, 3, exact.shape[1], generator=torch.Generator().manual_seed(0))
    assert relative(head(x), x @ table.dequantize().T) < 1e-3


def test_it_writes_text_and_saves_itself_anew(tied, tmp_path):
    model = load(tied.output)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        logits = model(ids).logits
        again = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert again.shape == (1, 6)
    model.save_pretrained(tmp_path / "copy")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "copy")(ids).logits, logits)


def test_the_report_counts_them_apart(tied, llama):
    report = json.loads((tied.output / "compression.json").read_text())
    (name,) = report["embeddings"]["layers"]
    figures = report["embeddings"]["layers"][name]
    assert name == "model.embed_tokens" and 8 < figures["bits_per_weight"] < 11
    assert figures["relative_error"] < 1e-3
    plain = compress(llama, tied.output.parent / "plain", options=options(embeddings="keep"))
    apart, before = measure_size(tied.output), measure_size(plain.output)
    assert apart.bits_per_weight == pytest.approx(before.bits_per_weight)
    assert apart.total_weights == before.total_weights
    assert apart.total_bits_per_weight < before.total_bits_per_weight


def test_a_head_of_its_own_is_packed_too(biased, tmp_path):
    done = compress(biased, tmp_path / "out", options=options(embeddings="uniform(bits=4)"))
    model, dense = load(done.output), load(biased)
    assert type(model.lm_head).__name__ == "QuantizedLinear"
    assert relative(model.lm_head.dequantize(), dense.lm_head.weight) < 0.2
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert relative(model(ids).logits, dense(ids).logits) < 1


def test_equal_runs_give_equal_bytes(tied, llama, tmp_path):
    again = compress(llama, tmp_path / "out", options=options())
    for path in tied.output.glob("*.safetensors"):
        assert path.read_bytes() == (again.output / path.name).read_bytes()
    assert again.report["files"] == tied.report["files"]


def test_the_module_follows_its_dtype():
    book = build("uniform(bits=8)")
    table = QuantizedEmbedding(20, 16, book, dtype=torch.bfloat16)
    dense = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    made = QuantizedLinear.from_codes(
        book, book.encode(dense.unsqueeze(-1)), torch.ones(20), in_features=16
    )
    table.weight, table.scales, table.signs_in = made.weight, made.scales, None
    assert table(torch.tensor([3])).dtype == torch.bfloat16
    table.float()
    rows = table(torch.tensor([3, 19]))
    assert rows.dtype == torch.float32
    assert relative(rows, dense[[3, 19]]) < 0.02
    x = torch.randn(1, 16).requires_grad_()
    table.project(x).sum().backward()
    assert x.grad is not None


def test_what_cannot_be_done_is_said(llama, tmp_path):
    with pytest.raises(ValueError, match="no table that can be listed"):
        QuantizedEmbedding(8, 8, build("trellis(bits=2, memory=12, code=hash)"))
    with pytest.raises(VqError, match="embeddings: trellis"):
        compress(
            llama,
            tmp_path / "o",
            options=options(embeddings="trellis(bits=2, memory=12, code=hash)"),
        )
    with pytest.raises(VqError):
        options(embeddings="uniform(bits=")
