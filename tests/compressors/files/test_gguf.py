"""A GGUF file made by the gguf package, read through transformers."""

import pytest
import torch

from vq.compressors.files.source import open_source
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.errors import VqError

pytestmark = pytest.mark.hf
WIDTH, FEED, VOCAB = 32, 64, 300


def byte_vocabulary():
    """The 256 byte symbols of GPT-2's tokenizer, then fillers; one merge, as an empty list is no list."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    return [*letters, "th", *(f"<filler{i}>" for i in range(VOCAB - 257))], ["t h"]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    tokens, merges = byte_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    generator = torch.Generator().manual_seed(0)

    def add(name, *shape):
        data = torch.randn(shape, generator=generator) if len(shape) > 1 else torch.ones(shape)
        writer.add_tensor(name, data.half().numpy() if len(shape) > 1 else data.numpy())

    add("token_embd.weight", VOCAB, WIDTH)
    add("output_norm.weight", WIDTH)
    for part, rows in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2), ("output", WIDTH)):
        add(f"blk.0.attn_{part}.weight", rows, WIDTH)
    add("blk.0.attn_norm.weight", WIDTH)
    add("blk.0.ffn_norm.weight", WIDTH)
    for part, shape in (("gate", (FEED, WIDTH)), ("up", (FEED, WIDTH)), ("down", (WIDTH, FEED))):
        add(f"blk.0.ffn_{part}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_a_plain_folder_once(gguf_file, tmp_path):
    source = open_source(gguf_file, tmp_path / "work")
    assert source.folder.parent == tmp_path / "work" and "quantization_config" not in source.config
    weights = source.read("model.layers.0.mlp.gate_proj.weight")
    assert weights.dtype == torch.float16 and weights.shape == (FEED, WIDTH)
    assert list(source.identity()) == ["tiny.gguf"]
    before = source.folder.stat().st_mtime_ns
    again = open_source(gguf_file, tmp_path / "work")
    assert again.folder.stat().st_mtime_ns == before
    assert [p.name for p in (tmp_path / "work").iterdir()] == [source.folder.name]


def test_a_gguf_file_is_compressed_and_loads(gguf_file, tmp_path):
    import vq

    (tmp_path / "t.txt").write_text("this is the thing that they thought of then " * 10)
    options = CompressOptions(codebook="scalar(bits=8)", windows=2, context=32)
    report = compress(gguf_file, tmp_path / "out", options=options, calibration=tmp_path / "t.txt")
    assert len(report.report["layers"]) == 7 and not (tmp_path / "out.partial").exists()
    small, plain = (
        vq.load(report.output, dtype=torch.float32),
        vq.load(gguf_file, dtype=torch.float32),
    )
    ids = vq.load_tokenizer(gguf_file)("the thing", return_tensors="pt")["input_ids"]
    assert torch.equal(
        vq.load_tokenizer(report.output)("the thing", return_tensors="pt")["input_ids"], ids
    )
    with torch.no_grad():
        a, b = small(ids).logits, plain(ids).logits
    assert float((a - b).norm() / b.norm()) < 0.05


def test_a_cut_gguf_file_is_named(gguf_file, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:5000])
    with pytest.raises(VqError, match=r"cut\.gguf: transformers cannot read this GGUF file"):
        open_source(path, tmp_path / "work")
    assert not (tmp_path / "work").exists()
