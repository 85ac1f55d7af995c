"""Verdicts: a collapsed and a healthy tokenizer, for the right reasons; conditions; at most 25 lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vq.analysis.files.open import open_subject
from vq.analysis.model import Analysis, Finding, Measurement, Section
from vq.analysis.page.terminal import LINES, summary
from vq.analysis.pipeline import analyze
from vq.analysis.rules.conditions import Condition
from vq.analysis.rules.verdict import judge
from vq.analysis.rules.words import natural, parts, shortened
from vq.errors import VqError
from vq.quantizers import make
from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.tokenizer import Tokenizer
from vq.tokenizers.tokenwriter import TokenWriter

K = 64


def folders(tmp_path, table: torch.Tensor):
    """A tokenizer with a table, saved, and the tokens that it makes of noise, as shards."""
    backbone = make_backbone("conv2d", factor=4, dim=6, width=8, seed=0)
    quantizer = make("vq", codebook=f"kmeans(dim=6, entries={K})")
    tokenizer = Tokenizer(backbone, quantizer).eval()
    x = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        features = tokenizer.features(x).reshape(-1, 6)
    quantizer.start(features)
    if table.numel():
        with torch.no_grad():
            quantizer.table.copy_(features.mean(0) + table)
    tokenizer.save(tmp_path / "tokenizer")
    with TokenWriter(tmp_path / "tokens", tokenizer.code_spec) as writer:
        for number, item in enumerate(tokenizer.encode(x)):
            writer.add(f"{number}.png", item, (32, 32))
    return tmp_path / "tokenizer", tmp_path / "tokens"


def collapsed_table() -> torch.Tensor:
    """Two entries in the data, all others copies of one that is far away."""
    table = torch.full((K, 6), 100.0)
    table[0], table[1] = 0.01, -0.01
    return table


def test_collapsed_and_healthy_tokenizers_get_opposite_verdicts(tmp_path):
    results = {}
    for name, table in (("bad", collapsed_table()), ("good", torch.zeros(0))):
        tokenizer, tokens = folders(tmp_path / name, table)
        results[name] = analyze(open_subject(tokens)), analyze(open_subject(tokenizer))
    codes, tables = results["bad"]
    assert codes.verdict == "bad" and tables.verdict == "bad"
    worst = codes.findings[0]
    assert (
        worst.section == "usage"
        and "collapsed: 64 entries are used as if there were 2" in worst.text
    )
    assert "3.1% used" in worst.reason and "even use would show 100%" in worst.reason
    assert "revival" in worst.action
    assert (
        tables.findings[0].section == "geometry" and "lie on one another" in tables.findings[0].text
    )
    codes, tables = results["good"]
    assert codes.verdict == "good" and tables.verdict == "good"
    assert any(f.section == "usage" and f.severity == "good" for f in codes.findings)
    assert any("spread out" in f.text for f in tables.findings)


def usage_of(codes: np.ndarray, entries: int, tmp_path) -> Analysis:
    path = tmp_path / "codes.npz"
    np.savez(
        path, codes=codes, codebook=np.random.default_rng(0).normal(size=(entries, 4)).astype("f4")
    )
    subject = open_subject(path)
    from dataclasses import replace

    assert subject.codes is not None
    return analyze(replace(subject, codes=replace(subject.codes, entries=(entries,)), tables=()))


def test_dead_entries_without_collapse(tmp_path):
    codes = np.random.default_rng(0).integers(0, 700, 40_000)
    found = usage_of(codes, 1000, tmp_path)
    assert found.verdict == "bad" and "30% of the entries are dead" in found.findings[0].text


def test_few_tokens_are_not_called_dead_nor_collapsed(tmp_path):
    codes = np.random.default_rng(0).integers(0, 4096, 2000)
    found = usage_of(codes, 4096, tmp_path)
    assert found.verdict == "good"
    (note,) = [f for f in found.findings if f.severity == "note" and f.section == "usage"]
    assert "Too few tokens" in note.text and "at least 10 tokens" in note.action


def test_collapse_shows_with_few_tokens_too(tmp_path):
    codes = np.random.default_rng(0).integers(0, 9, 2000)
    found = usage_of(codes, 4096, tmp_path)
    assert found.verdict == "bad" and "as if there were 9" in found.findings[0].text


def test_skewed_use_is_healthy_and_says_what_coding_saves(tmp_path):
    p = 1 / np.arange(1, 257)
    codes = np.random.default_rng(0).choice(256, 60_000, p=p / p.sum())
    found = usage_of(codes, 256, tmp_path)
    (good,) = [f for f in found.findings if f.section == "usage"]
    assert good.severity == "good" and "entropy coding" in good.action


def test_repetition(tmp_path):
    codes = np.repeat(np.random.default_rng(0).integers(0, 64, 3000), 4)
    found = usage_of(codes, 64, tmp_path)
    assert found.verdict == "warn" and "repeat the one before" in found.findings[0].text
    (section,) = found.of("sequence")
    assert section.number("run_length") == pytest.approx(4, rel=0.05)


def test_parts_in_words():
    def named(*names: str):
        return [Section("usage", "", name) for name in names]

    assert parts(named("")) == "" and parts(named("stage 3")) == "stage 3"
    assert parts(named("stage 0", "stage 1", "stage 2")) == "stages 0 to 2"
    assert parts(named("stage 0", "stage 2")) == "stages 0, 2"
    assert parts(named("a", "b", "c", "d")) == "4 parts (a, b, c, ...)"


def test_nothing_to_complain_about(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), "f4"))
    assert judge(open_subject(tmp_path / "x.npy"), ()) == (
        Finding("good", "Nothing that was measured looks wrong."),
    )


def test_the_summary_never_exceeds_its_lines():
    sections = tuple(
        Section(
            key,
            key,
            f"stage {i}",
            (Measurement("tokens", 5), Measurement("entries", 3), Measurement("pairs", 1)),
        )
        for key in ("usage", "sequence", "geometry")
        for i in range(16)
    )
    findings = tuple(
        Finding("warn", f"Finding {i} " + "word " * 40, "reason " * 60, "do " * 90)
        for i in range(30)
    )
    for count in range(0, 31, 3):
        text = summary(Analysis("tokens", "name", {"spec": "x" * 300}, sections, findings[:count]))
        lines = text.splitlines()
        assert len(lines) <= LINES and all(len(line) <= 112 for line in lines)
        assert "--json" in text


def analysis() -> Analysis:
    sections = (
        Section("usage", "", "stage 0", (Measurement("dead", 0.02), Measurement("unseen", 0.1))),
        Section(
            "usage", "", "stage 1", (Measurement("dead", 0.30), Measurement("perplexity", 7.0))
        ),
        Section("labels", "", "", (Measurement("purity", None, note="no labels"),)),
    )
    return Analysis("tokens", "x", {}, sections, (Finding("bad", "b"),))


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("dead>0.05", True),
        ("dead > 50%", False),
        ("dead<3%", True),
        ("usage.dead>=0.3", True),
        ("usage.stage 0.dead>0.05", False),
        ("usage.stage 1.dead>0.05", True),
        ("perplexity<=7", True),
        ("perplexity!=7", False),
        ("verdict==bad", True),
        ("verdict!=bad", False),
        ("verdict==good", False),
    ],
)
def test_conditions(text, met):
    assert bool(Condition.parse(text).holds(analysis())) is met


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("deed>1", "did you mean dead"),
        ("dead", "expected NAME and"),
        ("dead>much", "expected a number"),
        ("verdict>1", "verdict==bad"),
    ],
)
def test_conditions_that_make_no_sense(text, words):
    with pytest.raises(VqError, match=words):
        Condition.parse(text)


def test_conditions_on_what_was_not_measured():
    with pytest.raises(VqError, match="was not measured here; measured: dead"):
        Condition.parse("snr>1").holds(analysis())
    with pytest.raises(VqError, match="has no value here"):
        Condition.parse("purity>1").holds(analysis())


def test_few_entries_in_use_are_not_said_to_repeat(tmp_path):
    """Two entries repeat each other by chance; that is no matter of the hop."""
    generator = np.random.default_rng(0)
    codes = np.repeat(generator.integers(0, 2, 4000), 8)
    found = usage_of(codes, 64, tmp_path)
    assert "collapsed" in found.findings[0].text
    assert not any("repeat the one before" in f.text for f in found.findings)


def test_names_in_the_order_of_people_and_without_what_they_share():
    names = ["m.layers.10.q", "m.layers.2.q", "m.layers.2.k", "m.norm"]
    assert sorted(names, key=natural) == ["m.layers.2.k", "m.layers.2.q", "m.layers.10.q", "m.norm"]
    assert shortened(names) == ["layers.10.q", "layers.2.q", "layers.2.k", "norm"]
    assert shortened(names[:3]) == ["10.q", "2.q", "2.k"] and shortened(["a.b"]) == ["b"]
    assert shortened([]) == []
