"""Outliers, low-rank parts, own tables and scales of groups of columns: alone, and through a whole model."""

import copy
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vq
from vq.codebooks import build
from vq.compressors.checkpoint.size import measure_size
from vq.compressors.files.tensorfile import read_header
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.layers.sides import SIDES, Sides, scale_rows
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.rounding.block import derived_seed
from vq.compressors.rounding.options import (
    ColumnOptions,
    LowRankOptions,
    OutlierOptions,
    TableOptions,
)
from vq.compressors.rounding.packing import from_parts, pack, parts
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices
from vq.errors import VqError

ROWS, WIDTH = 40, 48
OUTLIERS, LOW_RANK = OutlierOptions(0.02), LowRankOptions(3)
DOWN = ColumnOptions(0.1, dim=3, entries=8)
CASES = {
    "outliers": ("scalar(bits=2)", {"outliers": OUTLIERS}),
    "outliers, rotated": ("trellis(bits=2, memory=8, code=lut)", {"outliers": OUTLIERS, "rotation": "input"}),
    "outliers, both": ("scalar(bits=2)", {"outliers": OUTLIERS, "rotation": "both"}),
    "low rank": ("scalar(bits=2)", {"low_rank": LOW_RANK, "rotation": "input"}),
    "one table": ("kmeans(dim=4, entries=16)", {"tables": TableOptions()}),
    "tables": ("kmeans(dim=1, entries=4)", {"tables": TableOptions(rows=1)}),
    "sums": ("additive(stages=2, dim=4, entries=8)", {"tables": TableOptions(rows=13)}),
    "columns": ("scalar(bits=2)", {"columns": ColumnOptions(0.05)}),
    "columns, vectors": ("kmeans(dim=4, entries=16)", {"columns": DOWN, "low_rank": LOW_RANK}),
    "columns, trellis": ("trellis(bits=2, memory=8, code=lut)", {"columns": ColumnOptions(0.05)}),
    "group": ("scalar(bits=4)", {"group": 32}),
    "group, vectors": ("additive(stages=2, dim=4, entries=8)", {"group": 32, "rotation": "both", "polish": 1}),
    "group, beside": (
        "e8p", {"group": 32, "rotation": "input", "outliers": OUTLIERS, "low_rank": LOW_RANK, "polish": 1},
    ),
    "all": (
        "kmeans(dim=4, entries=16)",
        {"outliers": OUTLIERS, "low_rank": LOW_RANK, "tables": TableOptions(rows=20), "polish": 1},
    ),
}  # fmt: skip


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, WIDTH, generator=generator)
    weight[3, 7], weight[11, 40] = 14.0, -9.0
    x = torch.randn(4 * WIDTH, WIDTH, generator=generator) @ torch.randn(
        WIDTH, WIDTH, generator=generator
    )
    return weight, x.t() @ x / len(x)


def fitted(spec):
    book = build(spec)
    if not book.fitted:
        book.fit(torch.randn(4096, book.dim, generator=torch.Generator().manual_seed(1)))
    return book


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    """Rounded matrix, codebook, packed layer, the dense matrix."""
    spec, options = CASES[request.param]
    weight, metric = data()
    book = fitted(spec)
    settings = RoundingOptions(**{"rotation": "none", **options})
    matrix = round_matrices({"w": weight}, metric, book, settings, seed=5)["w"]
    return matrix, book, pack(matrix, book, WIDTH), restore(matrix, book, (ROWS, WIDTH))


def test_a_layer_is_the_restored_matrix(case):
    _, _, layer, dense = case
    torch.testing.assert_close(layer.dequantize(), dense, rtol=1e-5, atol=1e-5)
    layer.mode = "float"
    for rows in (1, 3, 70):
        x = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows))
        for _ in range(2):  # the second call takes the short way
            torch.testing.assert_close(layer(x), x @ dense.T, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_dense_layer(case):
    _, _, layer, dense = case
    x = torch.randn(2, WIDTH, requires_grad=True)
    layer(x).square().sum().backward()
    expected = 2 * (x.detach() @ dense.T) @ dense
    torch.testing.assert_close(x.grad, expected, rtol=5e-3, atol=0.5)


def test_stored_tensors_make_the_layer_again(case):
    _, book, layer, dense = case
    stored = {n: t.clone() for n, t in parts("a.b", layer).items()}
    again = from_parts("a.b", stored, book, torch.nn.Linear(WIDTH, ROWS))
    assert torch.equal(again.dequantize(), layer.dequantize()) and again.sides == layer.sides
    assert sum(t.numel() * t.element_size() for t in stored.values()) == layer.stored_bytes
    fresh = QuantizedLinear(
        WIDTH,
        ROWS,
        book,
        rotate_in=layer.signs_in is not None,
        rotate_out=layer.signs_out is not None,
        sides=layer.sides,
    )
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.dequantize(), layer.dequantize())
    torch.testing.assert_close(fresh.dequantize(), dense, rtol=1e-5, atol=1e-5)


def test_casts_and_copies_change_nothing(case):
    _, _, layer, _ = case
    wanted = layer.dequantize()
    assert torch.equal(copy.deepcopy(layer).to(torch.bfloat16).dequantize(), wanted)
    assert torch.equal(copy.deepcopy(layer).half().double().dequantize(), wanted)


def test_layers_compile_as_one_graph(case, request):
    if request.node.callspec.params["case"] not in (
        "outliers, both",
        "one table",
        "columns, vectors",
        "group",
        "all",
    ):
        pytest.skip("five of them have all there is")
    _, _, layer, _ = case
    layer = copy.deepcopy(layer)
    layer.mode = "float"
    x = torch.randn(3, WIDTH)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_explain_names_what_is_beside_the_codes():
    spec, options = CASES["all"]
    weight, metric = data()
    book = fitted(spec)
    matrix = round_matrices({"w": weight}, metric, book, RoundingOptions(**options))["w"]
    text = pack(matrix, book, WIDTH).explain()
    assert "2 groups of rows" in text and "38 outliers" in text and "rank 3" in text


def test_sizes_follow_from_the_shape_alone():
    assert Sides.of({"outliers": {"share": 0.02}}, ROWS, WIDTH) == Sides(outliers=38)
    assert Sides.of({"low_rank": {"rank": 99}}, ROWS, WIDTH) == Sides(rank=ROWS)
    assert Sides.of({"tables": {"rows": 13}}, ROWS, WIDTH) == Sides(groups=4)
    assert Sides.of({"tables": {"rows": 0}}, ROWS, WIDTH) == Sides(groups=1)
    assert Sides.of({"tables": {"rows": 900}}, ROWS, WIDTH) == Sides(groups=1)
    assert not Sides.of({"tables": None}, ROWS, WIDTH).any
    columns = {"share": 0.05, "dim": 3, "entries": 8}
    assert Sides.of({"columns": columns}, ROWS, WIDTH).to_list() == [0, 0, 0, 2, 3, 8]
    assert Sides.of({"columns": columns}, ROWS, 5).columns == 1
    assert Sides.of({"group": 32}, ROWS, WIDTH).to_list() == [0, 0, 0, 0, 0, 0, 32]


def test_a_damaged_sparse_part_is_refused():
    spec, options = CASES["outliers"]
    weight, metric = data()
    matrix = round_matrices({"w": weight}, metric, fitted(spec), RoundingOptions(**options))["w"]
    layer = pack(matrix, fitted(spec), WIDTH)
    layer.outlier_columns = torch.full_like(layer.outlier_columns, 900)
    with pytest.raises(
        ValueError, match="the last column is 900 of 48: the sparse part is damaged"
    ):
        layer(torch.randn(1, WIDTH))


def columns_layer():
    spec, options = CASES["columns"]
    weight, metric = data()
    matrix = round_matrices(
        {"w": weight}, metric, fitted(spec), RoundingOptions("ldlq", "none", **options)
    )["w"]
    return pack(matrix, fitted(spec), WIDTH)


@pytest.mark.parametrize("index", [[900, 901], [7, 7], [9, 3]])
def test_damaged_second_codes_are_refused(index):
    layer = columns_layer()
    layer.column_index = torch.tensor(index, dtype=layer.column_index.dtype)
    with pytest.raises(ValueError, match="columns: expected ascending numbers below 48"):
        layer(torch.randn(1, WIDTH))


def test_second_codes_are_decoded_anew_when_they_change():
    layer, x = columns_layer(), torch.eye(WIDTH)
    before = layer(x).clone()
    layer.column_scales = layer.column_scales * 2
    torch.testing.assert_close(layer(x).T, layer.dequantize(), rtol=1e-2, atol=1e-2)
    layer.column_scales.zero_()
    places = torch.ones(WIDTH, dtype=torch.bool)
    places[layer.column_index.long()] = False
    assert torch.equal(layer(x)[places], before[places])
    assert not torch.allclose(layer(x)[~places], before[~places])


def test_explain_names_second_codes():
    assert "second codes of 2 columns" in columns_layer().explain()
    assert "second_codes_of_columns=2" in repr(columns_layer())


@pytest.mark.parametrize("name", ["all", "columns, vectors", "group, beside"])
def test_gains_scale_all_parts(name):
    spec, options = CASES[name]
    options = {"rotation": "none", **options}
    weight, metric = data()
    book = fitted(spec)
    matrix = round_matrices({"w": weight}, metric, book, RoundingOptions(**options))["w"]
    layer = pack(matrix, book, WIDTH)
    gain = torch.linspace(0.5, 2, ROWS)
    stored = parts("w", layer)
    scaled = from_parts(
        "w", {**stored, **scale_rows("w", stored, gain)}, book, torch.nn.Linear(WIDTH, ROWS)
    )
    wanted = layer.dequantize() * gain[:, None]
    torch.testing.assert_close(scaled.dequantize(), wanted, rtol=2e-2, atol=2e-2)


# whole models

MODELS = {
    "outliers": {"codebook": "scalar(bits=2)", "rotation": "none", "outliers": {"share": 0.01}},
    "low rank": {"codebook": "trellis(bits=2, memory=8, code=lut)", "low_rank": {"rank": 4}},
    "tables": {"codebook": "kmeans(dim=1, entries=4)", "tables": {"rows": 1}},
    "columns": {
        "codebook": "scalar(bits=2)",
        "rotation": "none",
        "columns": {"share": 0.1, "dim": 2, "entries": 8},
    },
    "group": {"codebook": "scalar(bits=2)", "rotation": "none", "group": 32},
    "group, beside": {
        "codebook": "kmeans(dim=2, entries=16)",
        "rotation": "both",
        "polish": 1,
        "group": 32,
        "outliers": {"share": 0.01},
        "low_rank": {"rank": 2, "rounds": 1},
    },
    "all": {
        "codebook": "kmeans(dim=2, entries=16)",
        "rotation": "both",
        "polish": 1,
        "outliers": {"share": 0.01, "by": "magnitude"},
        "low_rank": {"rank": 2, "rounds": 1},
        "tables": {"rows": 0},
    },
}
IDS = torch.arange(24)[None]


def options_of(name, **more):
    return CompressOptions(**{**MODELS[name], "windows": 4, "context": 16, **more})


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.hf
@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_has_the_logits_of_its_dense_weights(name, llama, text, tmp_path):
    from transformers import AutoModelForCausalLM

    output = compress(llama, tmp_path / "o", options=options_of(name), calibration=text)
    model = vq.load(output.output, dtype=torch.float32, mode="float")
    dense = vq.load(llama, dtype=torch.float32)
    count = 0
    for key, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            dense.get_submodule(key).weight.data = layer.dequantize()
            assert layer.sides.any
            count += 1
    assert count == 21
    torch.testing.assert_close(logits(model), logits(dense), rtol=1e-3, atol=1e-3)
    written = [m.generate(IDS, max_new_tokens=4, do_sample=False) for m in (model, dense)]
    assert torch.equal(*written) and written[0].shape == (1, 28)
    theirs = AutoModelForCausalLM.from_pretrained(output.output, dtype=torch.bfloat16)
    for key, value in model.state_dict().items():
        kept = any(
            part in key for part in (".outlier_", ".low_rank_", ".tables", ".column_", ".scales")
        )
        assert not kept or torch.equal(theirs.state_dict()[key], value), key


@pytest.fixture(scope="module")
def everything(llama, text, tmp_path_factory):
    """A run with all parts at once."""
    folder = tmp_path_factory.mktemp("sides") / "o"
    return compress(llama, folder, options=options_of("all"), calibration=text)


@pytest.mark.hf
def test_bits_count_the_bytes_on_disk(everything, llama, text, tmp_path):
    size = measure_size(everything.output)
    totals = everything.report["totals"]
    assert size.bits_per_weight == pytest.approx(totals["bits_per_weight"], abs=1e-5)
    options = CompressOptions(
        codebook="kmeans(dim=2, entries=16)", rounding="nearest", rotation="both", windows=0
    )
    plain = compress(llama, tmp_path / "p", options=options)
    stored = read_header(everything.output / "model.safetensors")[0]
    more = sum(e.size for n, e in stored.items() if n.rpartition(".")[2] in SIDES)
    assert more > 0
    assert totals["quantized_bytes"] - plain.report["totals"]["quantized_bytes"] == more
    layer = everything.report["layers"]["model.layers.0.mlp.down_proj"]
    assert (layer["outliers"], layer["low_rank"], layer["tables"]) == (15, 2, 1)


@pytest.mark.hf
@pytest.mark.parametrize("name", ["all", "tables", "columns", "group"])
def test_analysis_reads_the_same_matrices(name, everything, llama, text, tmp_path):
    from vq.analysis.files.open import open_subject

    output = everything.output
    if name != "all":
        output = compress(llama, tmp_path / "o", options=options_of(name), calibration=text).output
    layers = {layer.name: layer for layer in open_subject(output).layers}
    model, count = vq.load(output), 0
    for key, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            torch.testing.assert_close(
                layers[key].dense(), layer.dequantize(), rtol=1e-5, atol=1e-5
            )
            assert sum(layers[key].bits.values()) == 8 * layer.stored_bytes
            count += 1
    assert count == len(layers) == 21


class Stop(Exception):
    pass


@pytest.mark.hf
def test_an_interrupted_run_ends_with_the_same_bytes(everything, llama, text, tmp_path, contents):
    def stop(event):
        if event.stage == "block" and event.done == 2:
            raise Stop

    arguments = {"options": options_of("all"), "calibration": text}
    with pytest.raises(Stop):
        compress(llama, tmp_path / "o", progress=stop, **arguments)
    resumed = compress(llama, tmp_path / "o", **arguments)
    assert resumed.resumed == 2 and contents(resumed.output) == contents(everything.output)


TWO = """
import sys, torch
torch.set_num_threads(1)
from test_sides import options_of
from vq.compressors.pipeline import compress
compress(sys.argv[1], sys.argv[2], options=options_of("all"), calibration=sys.argv[3], timeout=120)
"""


@pytest.mark.hf
@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(everything, llama, text, tmp_path, contents):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for rank in range(2):
        more = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, **{k: str(v) for k, v in more.items()}}
        command = [sys.executable, "-c", TWO, str(llama), str(tmp_path / "o"), str(text)]
        jobs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for job in jobs:
        assert job.wait(timeout=600) == 0, job.communicate()[1]
    assert contents(tmp_path / "o") == contents(everything.output)


@pytest.mark.hf
def test_saving_and_loading_again_changes_no_bit(everything, tmp_path):
    from transformers import AutoModelForCausalLM

    model = vq.load(everything.output)
    model.save_pretrained(tmp_path / "again")
    again = vq.load(tmp_path / "again")
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[n], new[n]) for n in old)
    assert torch.equal(logits(model), logits(again))
    placed = AutoModelForCausalLM.from_pretrained(everything.output, device_map="auto")
    assert torch.equal(logits(placed), logits(model))


@pytest.mark.hf
def test_a_packed_head_has_nothing_beside_its_codes(biased, text, tmp_path):
    options = options_of("outliers", embeddings="uniform(bits=8)")
    model = vq.load(compress(biased, tmp_path / "o", options=options, calibration=text).output)
    assert isinstance(model.lm_head, QuantizedLinear) and not model.lm_head.sides.any
    assert model.model.layers[0].self_attn.q_proj.sides.outliers == 10
    assert torch.isfinite(logits(model)).all()


@pytest.mark.hf
@pytest.mark.parametrize("part", ["outlier_counts", "low_rank_right", "tables"])
def test_a_missing_part_is_named(everything, tmp_path, part):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(everything.output, tmp_path / "o")
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.1.self_attn.o_proj.{part}"
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VqError, match=f"tensor {name} is missing"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.hf
@pytest.mark.parametrize("name", ["all", "group"])
def test_tuned_gains_reach_all_parts(name, llama, text, tmp_path, monkeypatch):
    from vq.compressors.tuning import stage as tune_stage

    wanted, usual = {}, tune_stage._write

    def spy(tuner, *rest):
        for layer, gain in tuner.gains.items():
            dense = tuner.rounded[layer].weight.detach().float()
            wanted[layer] = (dense, dense * gain.detach()[:, None])
        usual(tuner, *rest)

    monkeypatch.setattr(tune_stage, "_write", spy)
    whole = {"tokens": 24 * 64, "context": 16, "batch": 4, "gain_rate": 0.02, "rate": 0.01}
    tuning = {"block_epochs": 1, "compensate": True, "checks": 4, **whole}
    parts_of = {"outliers": {"share": 0.05}, "low_rank": {"rank": 6, "rounds": 1}}
    changes = {"rotation": "input", "windows": 16, "tuning": tuning, **parts_of}
    output = compress(llama, tmp_path / "o", options=options_of(name, **changes), calibration=text)
    model = vq.load(output.output)
    assert len(wanted) == 21
    for layer, (before, after) in wanted.items():
        dense = model.get_submodule(layer).dequantize()
        error, moved = (float((dense - x).norm() / x.norm()) for x in (after, before))
        assert error < 0.004 and moved > 5 * error, layer


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("all", (8, 2, 1)),
        ("columns", (0, 0, 0, 2, 2, 8)),
        ("group", (0, 0, 0, 0, 0, 0, 32)),
    ],
)
def test_a_module_and_its_file(name, sides, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 24))
    plain = copy.deepcopy(net)
    x = torch.randn(200, 24)
    options = CompressOptions(**MODELS[name])
    model, report = vq.compress_module(net, lambda m: m(x), options=options)
    vq.save_module(model, tmp_path / "m.safetensors")
    again = vq.load_module(plain, tmp_path / "m.safetensors")
    assert again[0].sides == model[0].sides == Sides(*sides)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert report.layers["0"]["bits_per_weight"] == pytest.approx(
        model[0].bits_per_weight, abs=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outliers": {"share": 0}}, "outliers: share is a number above 0 and up to 0.5, got 0"),
        ({"outliers": {"by": "size"}}, "outliers: by is sensitivity or magnitude, got 'size'"),
        ({"outliers": {"shared": 0.1}}, "outliers: unknown key 'shared'; .*share"),
        ({"outliers": 0.005}, "outliers: expected keys and values such as {share: 0.005"),
        ({"low_rank": {"rank": 0}}, "low_rank: rank is a whole number of at least 1, got 0"),
        ({"tables": {"rows": 1.5}}, "tables: rows is a whole number of at least 0, got 1.5"),
        ({"tables": {"rows": 8}}, "tables: trellis.* has no table .*use kmeans"),
        ({"polish": -1}, "polish is a whole number of at least 0, got -1"),
        ({"polish": 2, "windows": 0, "rounding": "nearest"}, "polish needs calibration"),
        ({"outliers": {"share": 0.01}, "budget": "2.25"}, "budget: a plan does not count outliers"),
        ({"group": 128, "budget": "2.25"}, "budget: a plan does not count group"),
        ({"group": 100}, "group: expected 0 or a multiple of 32 columns .*got 100; try 128"),
        ({"group": -32}, "group is a whole number of at least 0, got -32"),
        ({"group": 65536}, "group: expected 0 or a multiple of 32 columns below 65536"),
        (
            {"group": 32, "rotation": "none", "columns": {"share": 0.1}},
            "columns: not together with scales of groups of columns",
        ),
        (
            {"group": 32, "codebook": "kmeans(dim=2, entries=4)", "tables": {"rows": 0}},
            "tables: not together with scales of groups of columns",
        ),
    ],
)
def test_wrong_options_say_what_is_right(options, message):
    with pytest.raises(VqError, match=message):
        CompressOptions(**options)


def test_too_few_vectors_for_a_table():
    book = fitted("kmeans(dim=4, entries=64)")
    weight, metric = data()
    options = RoundingOptions(tables=TableOptions(rows=2))
    with pytest.raises(
        ValueError, match="2 rows of 48 weights are 24 vectors of 4, fewer than the 64"
    ):
        round_matrices({"w": weight}, metric, book, options, seed=derived_seed(0, "w"))


OTHER = "trellis(bits=2, memory=8, code=hash)"


@pytest.mark.hf
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 32}, "group: trellis.*listed .layout 4., got layout 2; take a codebook such as"),
        ({"group": 32, "codebook": "pvq(dim=16, pulses=13)"}, "group: pvq.*got layout 1"),
        ({"group": 32, "codebook": "kmeans(dim=3, entries=8)"}, "a multiple of 96 columns"),
        (
            {"group": 32, "codebook": "scalar(bits=2)", "layers": {"*.up_proj": OTHER}},
            "group: trellis",
        ),
    ],
)
def test_a_group_is_refused_before_anything_runs(options, message, llama, text, tmp_path):
    options = CompressOptions(windows=2, context=16, **options)
    with pytest.raises(VqError, match=message):
        compress(llama, tmp_path / "o", options=options, calibration=text)
    assert not (tmp_path / "o").exists()
    if not options.layers:
        net = torch.nn.Sequential(torch.nn.Linear(96, 8))
        with pytest.raises(VqError, match=message):
            vq.compress_module(net, lambda m: m, options=options)


@pytest.mark.hf
def test_a_group_is_another_run_and_counts_its_bytes(llama, text, tmp_path):
    found = {}
    for group in (0, 32):
        options = options_of("group", group=group, rounding="nearest", windows=0)
        found[group] = compress(llama, tmp_path / f"{group}", options=options)
    assert found[32].report["options"]["group"] == 32
    assert found[32].report["layers"]["model.layers.0.mlp.down_proj"]["group"] == 32
    totals = [found[g].report["totals"]["quantized_bytes"] for g in (0, 32)]
    stored = read_header(found[32].output / "model.safetensors")[0]
    scales = [entry for n, entry in stored.items() if n.endswith(".scales")]
    assert len(scales) == 21 and all(len(entry.shape) == 2 for entry in scales)
    assert totals[1] - totals[0] == sum(entry.size - 2 * entry.shape[0] for entry in scales)
    size = measure_size(found[32].output)
    assert size.bits_per_weight == pytest.approx(
        found[32].report["totals"]["bits_per_weight"], abs=1e-5
    )
