"""State dicts with the documented names of each library, made by hand; every pattern is covered without the library."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vq.analysis.files.open import open_subject
from vq.analysis.pipeline import analyze
from vq.errors import VqError


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(prefix, embed, stages=2, dim=None):
    """EMA codebooks under numbered layers."""
    found = {}
    for i in range(stages):
        found[f"{prefix.format(i)}.embed"] = embed(i)
        shape = embed(i).shape[:-1]
        found[f"{prefix.format(i)}.cluster_size"] = (
            torch.arange(embed(i).shape[-2]).expand(shape) + 1.0
        )
        found[f"{prefix.format(i)}.embed_avg"] = embed(i) * 2
    return found


CASES = {
    "vector-quantize-pytorch": state("vq._codebook", lambda i: draw(1, 16, 8), 1),
    "vector-quantize-pytorch residual": state(
        "vq.layers.{}._codebook", lambda i: draw(1, 16, 8, seed=i)
    ),
    "EnCodec": state("quantizer.vq.layers.{}._codebook", lambda i: draw(16, 8, seed=i)),
    "transformers EnCodec": state("quantizer.layers.{}.codebook", lambda i: draw(16, 8, seed=i)),
}


@pytest.mark.parametrize("case", CASES)
def test_moving_average_codebooks_by_documented_keys(tmp_path, case):
    path = tmp_path / "m.safetensors"
    save_file({k: v.contiguous() for k, v in CASES[case].items()}, path)
    subject = open_subject(path)
    stages = 1 if case == "vector-quantize-pytorch" else 2
    assert subject.kind == "foreign" and subject.facts["library"] == case.removesuffix(" residual")
    assert subject.structure == ("residual" if stages > 1 else "one")
    assert [t.name for t in subject.tables] == (["stage 0", "stage 1"] if stages > 1 else [""])
    embeds = [v for k, v in CASES[case].items() if k.endswith(".embed")]
    for table, embed in zip(subject.tables, embeds, strict=True):
        assert torch.equal(table.values, embed.reshape(16, 8))
        assert torch.equal(table.counts, torch.arange(16) + 1.0)
    assert [s.key for s in analyze(subject).sections][:stages] == ["geometry"] * stages


def test_heads_groups_and_directions_of_vector_quantize_pytorch_by_documented_keys(tmp_path):
    embed = draw(3, 16, 4)
    torch.save({"a._codebook.embed": embed}, tmp_path / "heads.pt")
    heads = open_subject(tmp_path / "heads.pt")
    assert heads.structure == "grouped" and len(heads.tables) == 3
    assert torch.equal(heads.tables[2].values, embed[2]) and heads.tables[0].counts is None
    unit = torch.nn.functional.normalize(draw(1, 16, 4), dim=-1)
    keys = [f"rvqs.{g}.layers.{s}._codebook.embed" for g in range(2) for s in range(2)]
    torch.save({"state_dict": dict.fromkeys(keys, unit)}, tmp_path / "groups.ckpt")
    groups = open_subject(tmp_path / "groups.ckpt")
    assert [t.name for t in groups.tables][1:3] == ["group 0, stage 1", "group 1, stage 0"]
    assert all(t.cosine for t in groups.tables) and groups.structure == "one"


def test_simvq_by_documented_keys(tmp_path):
    frozen, linear = draw(16, 8), draw(8, 8, seed=1)
    np.savez(tmp_path / "s.npz", **{"q.frozen_codebook": frozen, "q.code_transform.weight": linear})
    (table,) = open_subject(tmp_path / "s.npz").tables
    assert torch.allclose(table.values, torch.nn.functional.linear(frozen, linear), atol=1e-5)
    np.savez(tmp_path / "s.npz", **{"q.frozen_codebook": frozen})
    with pytest.raises(VqError, match=r"q\.code_transform\.weight"):
        open_subject(tmp_path / "s.npz")


def test_grids_have_no_table(tmp_path):
    save_file(
        {"project_in.weight": draw(3, 8), "project_out.weight": draw(8, 3)},
        tmp_path / "f.safetensors",
    )
    with pytest.raises(VqError, match="no table"):
        open_subject(tmp_path / "f.safetensors")


def test_vqgan_of_taming_transformers_by_documented_keys(tmp_path):
    table = draw(16, 4)
    checkpoint = {
        "state_dict": {
            "quantize.embedding.weight": table,
            "quant_conv.weight": draw(4, 4, 1, 1),
            "encoder.conv_in.weight": draw(4, 3, 3, 3),
        },
        "global_step": 3,
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    subject = open_subject(tmp_path / "last.ckpt")
    assert torch.equal(subject.tables[0].values, table) and subject.facts["library"] == "VQGAN"


@pytest.mark.parametrize("norm", ["weight_{}", "parametrizations.weight.original{}"])
def test_dac_with_weight_norm_by_documented_keys(tmp_path, norm):
    found, energy = {}, []
    for i in range(2):
        at = f"quantizer.quantizers.{i}."
        table, g, v = draw(16, 4, seed=i), draw(12, 1, 1, seed=5), draw(12, 4, 1, seed=6)
        ends = ("g", "v") if norm.startswith("weight_") else ("0", "1")
        found |= {f"{at}codebook.weight": table, f"{at}out_proj.{norm.format(ends[0])}": g}
        found |= {f"{at}out_proj.{norm.format(ends[1])}": v}
        weight = torch._weight_norm(v, g, 0)[..., 0]
        energy.append(float((table @ weight.T).var(0, unbiased=False).sum()))
    torch.save(
        {"state_dict": found, "metadata": {"kwargs": {"sample_rate": 44100}}},
        tmp_path / "weights.pth",
    )
    subject = open_subject(tmp_path / "weights.pth")
    assert subject.facts["library"] == "DAC" and all(t.cosine for t in subject.tables)
    assert subject.facts["stage_energy"] == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize(
    "keys",
    [
        ("quantizer.semantic_residual_vector_quantizer.layers.0.codebook", "embed_sum"),
        ("quantizer.rvq_first.vq.layers.0._codebook", "embedding_sum"),
    ],
)
def test_mimi_divides_sums_by_use_by_documented_keys(tmp_path, keys):
    at, name = keys
    use = torch.arange(16) + 1.0
    save_file({f"{at}.{name}": draw(16, 4), f"{at}.cluster_usage": use}, tmp_path / "m.safetensors")
    (table,) = open_subject(tmp_path / "m.safetensors").tables
    assert torch.allclose(table.values, draw(16, 4) / use[:, None]) and torch.equal(
        table.counts, use
    )


def test_sharded_folder_with_its_index(tmp_path):
    shards = {"a.safetensors": CASES["EnCodec"], "b.safetensors": {"x.weight": draw(3)}}
    for name, tensors in shards.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / name)
    where = {k: name for name, tensors in shards.items() for k in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    assert len(open_subject(tmp_path).tables) == 2
    (tmp_path / "b.safetensors").write_bytes(b"no")
    with pytest.raises(VqError):
        open_subject(tmp_path)


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin"])
def test_code_in_pickles_is_refused_and_never_runs(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    torch.save({"_codebook.embed": draw(1, 4, 2), "x": Runs()}, f"evil.{suffix}")
    with pytest.raises(VqError, match="refused.*save_file"):
        open_subject(f"evil.{suffix}")
    assert not (tmp_path / "ran").exists()


def test_unknown_and_ambiguous_keys_list_what_was_found(tmp_path):
    torch.save({f"w{i}": draw(2, 3) for i in range(11)}, tmp_path / "u.pt")
    with pytest.raises(VqError, match=r"w0 \(2, 3\).* and 3 more.*Accepted: .*EnCodec") as caught:
        open_subject(tmp_path / "u.pt")
    assert str(caught.value).count("(2, 3)") == 8
    both = {"quantize.embedding.weight": draw(4, 2), "q.frozen_codebook": draw(4, 2)}
    torch.save(both, tmp_path / "b.pt")
    with pytest.raises(VqError, match=r"several libraries: VQGAN, .*q\.frozen_codebook"):
        open_subject(tmp_path / "b.pt")
    torch.save(draw(16, 4), tmp_path / "t.pt")
    assert torch.equal(open_subject(tmp_path / "t.pt").tables[0].values, draw(16, 4))
    (tmp_path / "d.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(VqError, match=r"d\.pt: "):
        open_subject(tmp_path / "d.pt")


def test_wrong_shapes_say_what_was_expected(tmp_path):
    torch.save({"_codebook.embed": draw(4)}, tmp_path / "s.pt")
    with pytest.raises(VqError, match=r"expected \(heads, entries, dim\), got \(4,\)"):
        open_subject(tmp_path / "s.pt")
