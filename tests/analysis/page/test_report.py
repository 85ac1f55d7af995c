"""The page: verdict first, whole, harmless, small, with words for every plot."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from vq.analysis.bench.gaussian import gap_db
from vq.analysis.files.open import open_subject
from vq.analysis.model import Analysis, Finding, Matrix, Measurement, Section, Series
from vq.analysis.page.images import pictures, png_size
from vq.analysis.page.report import LIMIT, page, write_page
from vq.analysis.pipeline import analyze
from vq.analysis.plots.choice import figures
from vq.analysis.plots.families import KINDS, families, kind_of
from vq.analysis.plots.weights import places
from vq.cli.main import main

HOSTILE = "<script>alert(1)</script>\"'&\x07"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Words in their order; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links |= {found["href"]} if "href" in found else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "body" in self.open and data.strip():
            self.words.append(data.strip())


def whole() -> Analysis:
    """Something of everything, with names that mean harm."""
    names = tuple(f"model.layers.{b}.{k}" for b in range(3) for k in ("up", HOSTILE))
    by_layer = {
        "layer": names,
        "bits_per_weight": (2.0, 3.0) * 3,
        "proxy_error": tuple(0.01 * (i + 1) for i in range(6)),
        "relative_error": (0.1, 0.2, None, 0.1, 0.3, 0.1),
        "kurtosis_before": (3.0, 90.0, 4.0, 5.0, 6.0, 7.0),
        "kurtosis_after": (3.0,) * 6,
    }
    stages = {
        "stage": ("stage 0", "stage 1"),
        "entropy": (7.5, 6.0),
        "bits": (8.0, 8.0),
        "energy": (0.9, 0.1),
        "snr": (5.0, 9.0),
        "gain": (5.0, 4.0),
        "db_per_bit": (5.0, 4.0),
    }
    rank = {"rank": (1, 2, 3), "share": (0.7, 0.2, 0.1), "even": (0.25,) * 3}
    dots = {"x": (0.0, 1.0), "y": (0.0, 2.0), "entry": (0, 1), "count": (5, 0)}
    plane = {"rate": (2.0, 1.9), "distortion": (0.1, 0.1), "what": ("nominal", "entropy coded")}
    numbers = (Measurement("used", 0.75, "", HOSTILE, "share " + HOSTILE, 100, 0.7, 0.8, HOSTILE),)

    def section(key: str, *series: Series, matrices: tuple[Matrix, ...] = ()) -> Section:
        return Section(key, f"About {key}", HOSTILE, numbers, series, matrices, (HOSTILE,))

    return Analysis(
        "tokens",
        HOSTILE,
        {"spec": HOSTILE, "empty": None, "url": "https://example.com/x.js"},
        (
            section("usage", Series("by_rank", "Use", rank)),
            section("geometry", Series("code_map", "Map", dots)),
            section("rate", Series("rd", "RD", plane)),
            section("stages", Series("by_stage", "Stages", stages)),
            section("weights", Series("by_layer", "Layers", by_layer)),
            section("training", Series("loss", HOSTILE, {"step": (1, 2), "value": (3.0, 1.0)})),
            section("labels", matrices=(Matrix("m", "M", (HOSTILE,), ("a",), ((0.5,),)),)),
            section("new", Series("odd", "Odd", {"word": ("p", HOSTILE), "v": (1.0, None)})),
        ),
        (Finding("bad", "It has collapsed " + HOSTILE, "numbers", "train anew"),),
        {"seed": 0},
    )


@pytest.fixture(scope="module")
def text() -> str:
    return page(whole())


def svgs(text: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_verdict_stands_first_with_reason_and_action(text):
    words = Reader(text).words
    assert words[0].startswith("Something is wrong: ")
    joined = " ".join(words)
    order = ["Something is wrong", "It has collapsed", "numbers", "train anew", "About usage"]
    places = [joined.index(part) for part in order]
    assert places == sorted(places)
    healthy = Analysis("codebook", "x", {}, (), (Finding("good", "fine"),))
    assert Reader(page(healthy)).words[0] == "It looks healthy: x"


def test_nothing_is_loaded_and_nothing_runs(text):
    read = Reader(text)
    assert not read.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert "<script" not in text and "\x07" not in text
    attributes = re.findall(r'(?:src|href|srcset|action|data|xmlns)="([^"]*)"', text)
    assert attributes and all(value.startswith("#") for value in attributes)
    assert not re.search(r"url\(|@import|\son\w+=", text)
    assert "default-src 'none'" in text
    assert {link.removeprefix("#") for link in read.links} <= read.ids


def test_every_plot_has_words(text):
    found = svgs(text)
    assert len(found) == 16
    for root in found:
        assert root.get("role") == "img" and root.find("title").text
        assert re.search(r"\d", root.find("desc").text), root.find("title").text


def test_every_measurement_has_definition_n_and_interval(text):
    joined = " ".join(Reader(text).words)
    assert joined.count("used: share <script>") == 8 and "0.7 to 0.8" in joined


def test_a_page_of_too_much_stays_below_the_limit():
    rows = tuple(Measurement(f"m{i}", 1.0, note="n" * 300, definition="d" * 200) for i in range(60))
    dots = tuple(float(i) for i in range(1500))
    points = Series("code_map", "Map", {"x": dots, "y": dots, "entry": dots, "count": dots})
    curves = tuple(Series(f"c{i}", "C", {"step": dots, "value": dots}) for i in range(5))
    sections = tuple(
        Section("geometry", "Places", f"stage {i}", rows, (points, *curves)) for i in range(64)
    )
    made = page(Analysis("tokenizer", "big", {}, sections))
    assert len(made.encode()) < LIMIT and "more parts: vq analyze --json" in made
    Reader(made)


def test_layers_by_block():
    names = ["model.layers.3.mlp.up_proj", "lm_head", "model.layers.0.mlp.experts.7.up"]
    assert places(names) == [("mlp.up_proj", 3), None, ("mlp.experts.7.up", 0)]
    names = ["model.encoder.layers.2.fc1", "model.decoder.layers.2.fc1"]
    assert places(names) == [("encoder.fc1", 2), ("decoder.fc1", 2)]
    assert places(["0.a", "b"]) == [("a", 0), None]
    first, *_ = figures(whole(), "weights")
    root = ET.fromstring(first.svg)
    cells = [r.find("title").text for r in root.iter("rect") if r.find("title") is not None]
    assert len(cells) == 6 and cells[0].startswith("up, 0: 0.01")
    assert "the highest is model.layers.2." in root.find("desc").text


def test_use_by_rank_against_pixels():
    """Axes from x = 1 to 3 and y = 0.1 to 0.7 with 5 % of their (logarithmic) length free at each end."""
    (figure,) = figures(whole(), "usage")
    (line,) = [
        p for p in ET.fromstring(figure.svg).iter("polyline") if p.get("stroke") == "#0072b2"
    ]
    points = [tuple(float(v) for v in p.split(",")) for p in line.get("points").split()]
    wide, tall = 560 - 74 - 16, 320 - 46 - 10
    for (x, y), rank, share in zip(points, (1, 2, 3), (0.7, 0.2, 0.1), strict=True):
        across = (math.log(rank) / math.log(3) + 0.05) / 1.1
        up = (math.log(share / 0.1) / math.log(7) + 0.05) / 1.1
        assert (x, y) == pytest.approx((74 + across * wide, 10 + (1 - up) * tall), abs=0.06)


def test_families_lie_above_shannons_line_and_have_kinds():
    found = families()
    assert len(found) > 60 and {f.kind for f in found} == set(KINDS)
    assert all(gap_db(f.distortion, f.rate) > 0 for f in found)
    assert kind_of("residual(stages=2, of=trellis(bits=2))") == "trellises"
    assert kind_of("unheard(of=1)") == "others"


def png(folder, name: str, shape=(8, 8)) -> None:
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    image.fromarray(noise).save(folder / "samples" / name)


def test_samples_of_a_run_are_part_of_the_page(tmp_path):
    for step in (1, 2, 3):
        png(tmp_path, f"step_{step}.png", (8, 6))
    shown = pictures(tmp_path)
    assert [p.name for p in shown] == ["step_1.png", "step_3.png"]
    assert all(p.size == (6, 8) for p in shown)
    made = page(whole(), shown)
    assert made.count('src="data:image/png;base64,') == 2 and 'alt="Samples at the first' in made
    Reader(made)


def test_large_samples_are_made_small_and_bad_ones_left_out(tmp_path):
    png(tmp_path, "a.png", (900, 900))
    (tmp_path / "samples" / "b.png").write_bytes(b"no picture" * 50)
    (shown,) = pictures(tmp_path, 200_000)
    assert shown.data.startswith("data:image/jpeg") and len(shown.data) < 140_000
    assert pictures(tmp_path / "nothing") == []
    broken = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\0\5\0\0\0\7" + zlib.compress(b"")
    assert png_size(broken) == (5, 7) and png_size(b"GIF89a" + b"0" * 40) is None


def test_the_command_writes_it(tmp_path, capsys):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(64, 4)).astype("f4"))
    out = tmp_path / "new" / "report.html"
    assert main(["analyze", str(tmp_path / "table.npy"), "-o", str(out), "--quiet"]) == 0
    assert f"report: {out}" in capsys.readouterr().err
    made = out.read_text(encoding="utf-8")
    assert "Map of the entries" in made and len(svgs(made)) == 2
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    np.save(tmp_path / "table.npy", np.zeros((3, 2), "f4"))
    analysis = analyze(open_subject(tmp_path / "table.npy"))
    with pytest.raises(Exception, match="cannot be written"):
        write_page(analysis, tmp_path / "file" / "report.html")
