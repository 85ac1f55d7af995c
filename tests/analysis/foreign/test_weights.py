"""AQLM and VPTQ: layers by hand with the documented names, values by a slow second formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vq.analysis.files.open import open_subject
from vq.analysis.foreign.vptq import unpack_words
from vq.analysis.pipeline import analyze
from vq.errors import VqError


def aqlm(out=6, across=2, books=2, entries=16, tall=1, wide=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(entries, (out, across, books), generator=g)
    stored = torch.where(codes >= entries // 2, codes - entries, codes).to(torch.int8)
    tables = torch.randn(books, entries, tall, wide, generator=g)
    scales = torch.rand(out, 1, 1, 1, generator=g) + 0.5
    return codes, {"codes": stored, "codebooks": tables, "scales": scales}


def test_aqlm_by_documented_keys(tmp_path):
    codes, parts = aqlm()
    named = {f"model.q.{k}": v for k, v in parts.items()}
    save_file({**named, "model.norm.weight": torch.ones(5)}, tmp_path / "model.safetensors")
    config = {"model_type": "llama", "quantization_config": {"quant_method": "aqlm"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    subject = open_subject(tmp_path)
    (layer,) = subject.layers
    want = torch.zeros(6, 16)
    for o in range(6):
        for g in range(2):
            total = sum(parts["codebooks"][m, codes[o, g, m], 0] for m in range(2))
            want[o, 8 * g : 8 * g + 8] = total * parts["scales"][o, 0, 0, 0]
    assert layer.name == "model.q" and layer.shape == (6, 16) and layer.spec == "AQLM 2x4g8"
    assert torch.allclose(layer.dense(), want, atol=1e-6)
    assert layer.bits == {"codes": 8 * 24, "codebooks": 32 * 256, "scales": 32 * 6}
    assert subject.facts["other_weights"] == 5 and subject.facts["other_bits"] == 160
    for m, table in enumerate(subject.tables):
        assert table.counts.tolist() == np.bincount(codes[..., m].flatten(), minlength=16).tolist()
    (chunk,) = list(subject.codes.read())
    assert np.array_equal(chunk.codes, codes.movedim(2, 0).flatten(1).numpy())
    found = {s.key for s in analyze(subject).sections}
    assert {"usage", "geometry", "weights"} <= found


def test_aqlm_of_layers_of_several_sizes_and_tall_groups(tmp_path):
    (_, a), (_, b) = aqlm(out=6), aqlm(out=3, books=1, tall=2, wide=4, seed=1)
    both = {f"a.{k}": v for k, v in a.items()} | {f"b.{k}": v for k, v in b.items()}
    save_file(both, tmp_path / "m.safetensors")
    subject = open_subject(tmp_path / "m.safetensors")
    assert [layer.shape for layer in subject.layers] == [(6, 16), (6, 8)]
    tall = subject.layers[1].dense()
    entry = int(b["codes"][1, 1, 0]) % 16
    assert torch.allclose(tall[2:4, 4:8], b["codebooks"][0, entry] * b["scales"][1])
    (chunk,) = list(subject.codes.read())
    assert chunk.codes.shape == (3, 12) and (chunk.codes[2, 6:] == -1).all()
    assert analyze(subject).of("weights")


def test_aqlm_with_shapes_that_do_not_fit(tmp_path):
    _, parts = aqlm()
    parts["codes"] = parts["codes"][..., :1].contiguous()
    save_file({f"q.{k}": v for k, v in parts.items()}, tmp_path / "m.safetensors")
    with pytest.raises(VqError, match=r"q: expected codes .*\(6, 2, 1\)"):
        open_subject(tmp_path / "m.safetensors")


def pack(codes, bits):
    """int32 words of codes, least significant bits first, by plain arithmetic on whole numbers."""
    rows = codes.reshape(-1, codes.shape[-1]).tolist()
    words = -(-codes.shape[-1] * bits // 32)
    packed = []
    for row in rows:
        number = sum(code << (bits * i) for i, code in enumerate(row))
        packed.append([(number >> (32 * w)) & 0xFFFFFFFF for w in range(words)])
    array = np.array(packed, np.uint32).view(np.int32).reshape(*codes.shape[:-1], words)
    return torch.from_numpy(array)


def test_words_unpack():
    codes = torch.randint(1 << 13, (2, 3, 11), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack_words(pack(codes, 13), 13, 11), codes)


@pytest.mark.parametrize("packed", [True, False])
def test_vptq_with_residual_outliers_and_permutation_by_documented_keys(tmp_path, packed):
    g = torch.Generator().manual_seed(0)
    out, columns, outliers, v, wide = 10, 7, 2, 4, 2  # rows are filled up to 12
    table, rest = torch.randn(16, v, generator=g), torch.randn(4, v, generator=g)
    extra = torch.randn(8, wide, generator=g)
    main = torch.randint(16, (1, 3, columns), generator=g)
    more = torch.randint(4, (1, 3, columns), generator=g)
    odd = torch.randint(8, (1, 5, outliers), generator=g)
    perm = torch.randperm(columns + outliers, generator=g)
    scale, bias = torch.rand(9, generator=g), torch.rand(9, generator=g)
    state = {
        "centroids.weight": table.reshape(1, -1),
        "res_centroids.weight": rest.reshape(1, -1),
        "outlier_centroids.weight": extra.reshape(1, -1),
        "outlier_indices": odd.short(),
        "weight_scale": scale,
        "weight_bias": bias,
        "perm": perm.short() if packed else perm,
        "indices": pack(main | more << 4, 6) if packed else main.short(),
    }
    if not packed:
        state["res_indices"] = more.short()
    args = {
        "in_features": 9,
        "out_features": out,
        "vector_lens": [wide, v],
        "num_centroids": [8, 16],
        "num_res_centroids": [-1, 4],
        "group_num": 1,
        "group_size": columns,
        "outlier_size": outliers,
    }
    save_file({f"l.0.q.{k}": t for k, t in state.items()}, tmp_path / "model.safetensors")
    about = {"quant_method": "vptq", "config_for_layers": {"l.0.q": args}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": about}))
    subject = open_subject(tmp_path)
    (layer,) = subject.layers
    want = torch.zeros(out, 9)
    for place in range(9):  # column of the stored order; it belongs to input perm[place]
        for row in range(out):
            if place < outliers:
                value = extra[odd[0, row // wide, place], row % wide]
            else:
                at = (0, row // v, place - outliers)
                value = table[main[at], row % v] + rest[more[at], row % v]
            want[row, perm[place]] = value * scale[perm[place]] + bias[perm[place]]
    assert layer.shape == (10, 9) and layer.spec == "VPTQ v4-k16-4"
    assert torch.allclose(layer.dense(), want, atol=1e-6)
    assert [t.name for t in subject.tables] == ["l.0.q", "l.0.q residual", "l.0.q outliers"]
    assert subject.tables[0].counts.tolist() == np.bincount(main.flatten(), minlength=16).tolist()
    assert analyze(subject).of("weights")
    (tmp_path / "config.json").unlink()
    with pytest.raises(VqError, match="config_for_layers"):
        open_subject(tmp_path / "model.safetensors")
