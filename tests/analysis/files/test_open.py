"""Paths: what each turns out to be, and streams that equal those of the tokenizers' own reader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vq.analysis.files.codebook import subject_of
from vq.analysis.files.open import OPENERS, open_subject, opener
from vq.analysis.files.tables import tables_of, tables_of_quantizer
from vq.codebooks import build
from vq.errors import VqError
from vq.quantizers import make
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import TokenWriter


def write_tokens(
    folder, storage, entries=(8, 100, 100), strides=(1, 1, 1), shard_bytes=300, kind="image"
):
    spec = CodeSpec(
        kind,
        entries,
        strides,
        (4, 4) if kind == "image" else (10,),
        1,
        None if kind == "image" else 8000,
        "none",
        "h",
    )
    generator = torch.Generator().manual_seed(0)
    with TokenWriter(folder, spec, storage, shard_bytes) as writer:
        for number in range(23):
            shape = (5, 6 + number // 8) if kind == "image" else (20 + number // 8,)
            rows = []
            for k, stride in zip(entries, strides, strict=True):
                short = torch.randint(
                    k, (*shape[:-1], -(-shape[-1] // stride)), generator=generator
                )
                rows.append(short.repeat_interleave(stride, -1)[..., : shape[-1]])
            writer.add(
                f"{number}", torch.stack(rows), [4 * n for n in shape] if kind == "image" else [200]
            )
    return folder


@pytest.mark.parametrize("storage", ["uint8", "int64", "packed"])
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_streams_of_tokens_equal_those_of_the_reader(tmp_path, monkeypatch, storage, kind):
    monkeypatch.setattr("vq.analysis.files.tokens._CHUNK", 250)
    strides = (1, 1, 1) if kind == "image" else (4, 2, 1)
    folder = write_tokens(tmp_path / "t", storage, strides=strides, kind=kind)
    subject, reader = open_subject(folder), TokenReader(folder)
    want = [codes.flatten(1) for _, codes in reader]
    chunks = list(subject.codes.read())
    assert np.array_equal(np.concatenate([c.codes for c in chunks], 1), torch.cat(want, 1).numpy())
    starts, at = [], 0
    for chunk in chunks:
        starts += (chunk.starts + at).tolist()
        at += chunk.codes.shape[1]
    sizes = [w.shape[1] for w in want]
    assert starts == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert subject.codes.positions == at == sum(sizes) and subject.codes.items == 23
    assert max(c.codes.size for c in chunks) <= 3 * 250
    size = reader.size()
    assert subject.facts["file_bytes"] == size.file_bits // 8
    assert subject.facts["bits_per_position"] == pytest.approx(size.payload_bits / size.positions)


def test_damaged_tokens(tmp_path):
    folder = write_tokens(tmp_path / "t", "uint8")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(VqError, match="tokens-00001"):
        open_subject(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(VqError, match="damaged"):
        open_subject(folder)
    (folder / "index.json").write_text('{"format": "vq-tokens", "version": 9}')
    with pytest.raises(VqError, match="upgrade"):
        open_subject(folder)


@pytest.mark.parametrize(
    "spec",
    [
        "residual(stages=2, of=kmeans(dim=8, entries=256))",
        "additive(stages=2, dim=8, entries=256)",
        "product(groups=2, of=kmeans(dim=4, entries=16))",
        "product(groups=4, of=kmeans(dim=2, entries=16), shared=true)",
        "factorized(of=kmeans(dim=2, entries=16), factors=2)",
        "simvq(dim=8, entries=256)",
        "kmeans(dim=8, entries=256)",
        "e8p()",
    ],
)
def test_tables_make_what_the_codebook_decodes(spec):
    book = build(spec)
    tables, structure = tables_of(book)
    x = torch.randn(64, book.dim, generator=torch.Generator().manual_seed(0))
    codes = book.encode(x).reshape(64, -1).long()
    parts = [t.values[codes[:, i]] for i, t in enumerate(tables)]
    values = torch.cat(parts, 1) if structure == "grouped" else torch.stack(parts).sum(0)
    assert torch.allclose(values, book.decode(book.encode(x)), atol=1e-5)


def test_codebooks_without_a_table_are_measured_by_what_they_do():
    subject = subject_of(build("trellis(bits=2, memory=12, code=hash)"), None)  # type: ignore[arg-type]
    assert subject.tables == () and subject.quantize is not None


VQ = {"kind": "vq", "codebook": "kmeans(dim=6, entries=8)"}


@pytest.mark.parametrize(
    ("kind", "config", "names"),
    [
        ("vq", {"codebook": VQ["codebook"]}, [""]),
        ("simvq", {"codebook": "simvq(dim=6, entries=8)"}, [""]),
        ("ibq", {"codebook": VQ["codebook"]}, [""]),
        ("residual", {"stages": 2, "of": VQ}, ["stage 0", "stage 1"]),
        ("grouped", {"groups": 2, "of": VQ}, ["group 0", "group 1"]),
        ("factorized", {"heads": 2, "of": VQ, "dim": 12}, ["group 0", "group 1"]),
        ("multiscale", {"strides": [2, 1], "of": VQ}, ["stage 0", "stage 1"]),
        ("fsq", {"levels": [3, 3], "dim": 2}, [""]),
    ],
)
def test_tables_of_quantizers_from_their_state(kind, config, names):
    layer = make(kind, **config)
    state = layer.state_dict()
    tables, _ = tables_of_quantizer({"kind": kind, **layer.config()}, state)
    assert [t.name for t in tables] == names
    if kind in ("vq", "residual"):
        prefix = "" if kind == "vq" else "parts.0."
        assert torch.equal(tables[0].values, state[f"{prefix}table"])


def test_cosine_lookup_is_noted():
    layer = make("vq", codebook="kmeans(dim=6, entries=8)", lookup="cosine")
    (table,), _ = tables_of_quantizer({"kind": "vq", **layer.config()}, layer.state_dict())
    assert table.cosine


def test_bare_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3), np.float32))
    assert open_subject(tmp_path / "a.npy").kind == "codebook"
    np.save(tmp_path / "b.npy", np.array([[1, 2, 0], [4, 4, 4]]).repeat(50, 1))
    tokens = open_subject(tmp_path / "b.npy")
    assert tokens.kind == "tokens" and tokens.codes.entries == (3, 5)
    save_file(
        {"book": torch.zeros(2, 4, 3), "indices": torch.tensor([3, 1])}, tmp_path / "c.safetensors"
    )
    both = open_subject(tmp_path / "c.safetensors")
    assert [t.values.shape for t in both.tables] == [(4, 3)] * 2 and both.codes is not None
    np.savez(
        tmp_path / "d.npz", labels=np.arange(6), codes=np.arange(6), vectors=np.zeros((6, 2), "f4")
    )
    more = open_subject(tmp_path / "d.npz")
    assert more.labels is not None and more.vectors is not None and more.kind == "tokens"


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(VqError, match="no such file"):
        open_subject(tmp_path / "nothing")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(VqError, match="vq analyze takes: .*folder of token shards"):
        open_subject(tmp_path / "x.txt")
    with pytest.raises(VqError, match=r"a folder with x\.txt"):
        open_subject(tmp_path)
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(VqError, match="cannot be read"):
        open_subject(tmp_path / "o.npy")
    np.save(tmp_path / "s.npy", np.array(["a"]))
    with pytest.raises(VqError, match="expected a float matrix"):
        open_subject(tmp_path / "s.npy")


def test_an_opener_registers_once():
    name = next(iter(OPENERS)) if OPENERS else "folder of token shards"
    open_subject  # noqa: B018  (imports the openers)
    with pytest.raises(ValueError, match="twice"):
        for _ in range(2):
            opener(name + " of a test", lambda path: False)(lambda path: None)  # type: ignore[arg-type,return-value]
    OPENERS.pop(name + " of a test")
