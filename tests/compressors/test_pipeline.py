import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import vq
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.rounding.block import BlockQuantizer, derived_seed
from vq.errors import VqError

pytestmark = pytest.mark.hf
OPTIONS = CompressOptions(codebook="scalar(bits=2)", windows=4, context=16)


@pytest.fixture
def run(llama, text, tmp_path):
    """Compress with small defaults; changes to the options by name."""

    def call(name="out", model=llama, options=OPTIONS, **arguments):
        arguments.setdefault("calibration", text)
        return compress(model, tmp_path / name, options=options, **arguments)

    return call


class Stop(Exception):
    pass


def stop_after(block):
    def progress(event):
        if event.stage == "block" and event.done == block:
            raise Stop

    return progress


def test_two_runs_give_the_same_bytes(run, contents):
    first, second = run("a"), run("b")
    assert contents(first.output) == contents(second.output)
    assert first.resumed == 0 and first.warnings == []
    assert not first.output.with_name("a.partial").exists()


def test_the_seed_changes_the_bytes(run, contents):
    other = CompressOptions(codebook="scalar(bits=2)", windows=4, context=16, seed=1)
    assert contents(run("a").output) != contents(run("b", options=other).output)


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("sequential", [False, True])
def test_an_interrupted_run_ends_with_the_same_bytes(run, contents, block, sequential):
    options = CompressOptions(
        codebook="scalar(bits=2)", windows=4, context=16, sequential=sequential
    )
    whole = run("whole", options=options)
    with pytest.raises(Stop):
        run(options=options, progress=stop_after(block))
    resumed = run(options=options)
    assert resumed.resumed == block
    assert contents(resumed.output) == contents(whole.output)


def test_a_killed_process_ends_with_the_same_bytes(run, contents, llama, text, tmp_path):
    whole = run("whole")
    code = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from vq.compressors.pipeline import compress\n"
        "from vq.compressors.options import CompressOptions\n"
        "def kill(event):\n"
        "    if event.stage == 'block' and event.done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "compress(sys.argv[1], sys.argv[2], calibration=sys.argv[3], progress=kill,\n"
        "    options=CompressOptions(codebook='scalar(bits=2)', windows=4, context=16))\n"
    )
    command = [sys.executable, "-c", code, str(llama), str(tmp_path / "out"), str(text)]
    killed = subprocess.run(command, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out").exists()
    resumed = run()
    assert resumed.resumed == 2
    assert contents(resumed.output) == contents(whole.output)


def test_a_run_killed_while_writing_ends_with_the_same_bytes(run, contents, monkeypatch):
    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr("vq.compressors.pipeline.publish", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run()
    assert run().resumed == 3
    assert contents(run("out2").output) == contents(whole.output)


def test_one_block_is_in_memory_at_a_time(run, monkeypatch):
    held = []
    usual = BlockQuantizer.quantize

    def watch(self, index, activations):
        real = {n for n, p in self.skeleton.model.named_parameters() if not p.is_meta}
        held.append({".".join(name.split(".")[:3]) for name in real})
        return usual(self, index, activations)

    monkeypatch.setattr(BlockQuantizer, "quantize", watch)
    with pytest.raises(Stop):
        run(progress=stop_after(2))
    run()
    assert held == [{"model.layers.0"}, {"model.layers.1"}, {"model.layers.2"}]


def test_a_block_sees_the_quantized_blocks_before_it(run, monkeypatch):
    """Inputs of the last block equal those in the finished model."""
    inputs = []
    usual = BlockQuantizer.quantize

    def watch(self, index, activations):
        inputs.append((activations.hidden[0].clone(), activations))
        return usual(self, index, activations)

    tokens = []
    from vq.compressors import pipeline

    monkeypatch.setattr(BlockQuantizer, "quantize", watch)
    capture = pipeline.capture
    monkeypatch.setattr(pipeline, "capture", lambda s, t, *a: tokens.append(t) or capture(s, t, *a))
    output = run().output
    model = vq.load(output, dtype=torch.float32, mode="float")
    seen = []
    model.model.layers[2].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        model(**tokens[0][0])
    torch.testing.assert_close(inputs[2][0], seen[0], atol=1e-4, rtol=1e-4)


def test_error_feedback_lowers_the_error(run):
    nearest = CompressOptions(codebook="scalar(bits=2)", rounding="nearest", windows=4, context=16)
    errors = [
        run(name, options=options).report["totals"]["mean_proxy_error"]
        for name, options in (("a", nearest), ("b", OPTIONS))
    ]
    assert errors[1] < 0.9 * errors[0]


def test_nearest_needs_no_text(run):
    options = CompressOptions(codebook="scalar(bits=2)", rounding="nearest", windows=0)
    report = run(options=options, calibration=None).report
    assert report["calibration"] is None and len(report["layers"]) == 21


def test_exceptions_for_single_layers(run, llama):
    options = CompressOptions(
        codebook="scalar(bits=2)",
        layers={"*.v_proj": "scalar(bits=4)", "model.layers.0.mlp.down_proj": "keep"},
        windows=4,
        context=16,
    )
    result = run(options=options)
    books = {name: layer["codebook"] for name, layer in result.report["layers"].items()}
    assert "model.layers.0.mlp.down_proj" not in books and len(books) == 20
    for name, book in books.items():
        assert book == ("scalar(bits=4)" if name.endswith("v_proj") else "scalar(bits=2)")
    model = vq.load(result.output)
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    assert model.model.layers[1].self_attn.v_proj.codebook.bits == 4
    layers = model.model.layers
    assert layers[1].self_attn.v_proj.codebook is layers[2].self_attn.v_proj.codebook


def test_learned_codebooks_are_stored_once(run):
    options = CompressOptions(codebook="kmeans(dim=4, entries=16)", windows=4, context=16)
    output = run(options=options).output
    model = vq.load(output)
    assert model.vq_codebooks.c0.fitted
    assert [n for n in model.state_dict() if "table" in n] == ["vq_codebooks.c0.table"]


@pytest.mark.parametrize("rotation", ["none", "input", "both"])
def test_rotations_load_again(run, biased, rotation):
    options = CompressOptions(codebook="scalar(bits=8)", rotation=rotation, windows=4, context=16)
    model = vq.load(run(model=biased, options=options).output, dtype=torch.float32)
    original = vq.load(biased, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, atol=0.6, rtol=0.1)
        error = (model(ids).logits - original(ids).logits).std() / original(ids).logits.std()
    assert float(error) < 0.05


def test_an_existing_output_is_kept_until_the_new_one_is_complete(run, contents):
    old = contents(run().output)
    with pytest.raises(VqError, match="not empty; choose another output or use --overwrite"):
        run()
    other = CompressOptions(codebook="scalar(bits=3)", windows=4, context=16)
    with pytest.raises(Stop):
        run(options=other, overwrite=True, progress=stop_after(2))
    output = run("other", options=other).output
    assert contents(output.with_name("out")) == old
    assert contents(run(options=other, overwrite=True).output) == contents(output)
    assert not output.with_name("out.old").exists()


def test_overwrite_spares_what_is_no_model(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(VqError, match="not a model folder"):
        run(overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(VqError, match="a file is in the way"):
        run("file")


def test_another_run_in_the_way_is_refused(run):
    with pytest.raises(Stop):
        run(progress=stop_after(1))
    other = CompressOptions(codebook="scalar(bits=2)", windows=4, context=16, damping=0.5)
    with pytest.raises(VqError, match=r"options\.damping was 0\.03, now 0\.5.*--restart"):
        run(options=other)
    assert run(options=other, restart=True).resumed == 0


def test_other_weights_or_text_are_another_run(run, llama, copy, tmp_path):
    with pytest.raises(Stop):
        run(progress=stop_after(1))
    folder = copy(llama)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(VqError, match=r"model\.model\.safetensors was"):
        run(model=folder)
    (tmp_path / "t.txt").write_text("w1 w2 w3 " * 100)
    with pytest.raises(VqError, match="calibration was"):
        run(calibration=tmp_path / "t.txt")


def test_wrong_calls_are_refused(run, llama, copy, build_model, tmp_path):
    with pytest.raises(VqError, match="calibration: expected text files"):
        run(calibration=None)
    with pytest.raises(VqError, match="at most 64 tokens, got 65"):
        run(options=CompressOptions(codebook="scalar(bits=2)", windows=1, context=65))
    with pytest.raises(VqError, match=r"'\*\.qproj' matches no layer"):
        run(options=CompressOptions(codebook="scalar(bits=2)", layers={"*.qproj": "keep"}))
    with pytest.raises(VqError, match="codebook: unknown codebook family 'scaler'"):
        run(options=CompressOptions(codebook="scaler(bits=2)"))
    with pytest.raises(VqError, match=r"at least 1|positive number"):
        run(max_shard_bytes=0)
    small = build_model(tmp_path / "small", layers=1, vocab_size=30)
    with pytest.raises(VqError, match="the model knows 30 tokens; they do not belong together"):
        run(model=small)
    with pytest.raises(VqError):
        run("unmade", model=tmp_path / "no such model")
    assert not list(tmp_path.glob("unmade*"))


def test_dead_inputs_are_reported_by_name(run, llama, copy, monkeypatch):
    from safetensors.torch import load_file, save_file

    folder = copy(llama)
    tensors = load_file(folder / "model.safetensors")
    for part in ("gate", "up"):
        tensors[f"model.layers.1.mlp.{part}_proj.weight"][7] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = run(model=folder)
    assert result.warnings == [
        "model.layers.1.mlp.down_proj: 1 input channels were always zero (channels 7)",
    ]


def test_progress_tells_of_every_block(run, monkeypatch):
    events = []
    run(progress=events.append)
    assert [e.stage for e in events] == ["read", "calibrate", "block", "block", "block", "write"]
    assert [e.done for e in events] == [0, 0, 1, 2, 3, 3] and {e.total for e in events} == {3}
    assert len(events[2].layers) == 7 and events[2].seconds > 0


def test_each_layer_has_a_seed_of_its_own():
    seeds = {derived_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4 and derived_seed(0, "a") == derived_seed(0, "a")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_sequential_differs_only_after_the_first_group(run):
    options = CompressOptions(codebook="scalar(bits=2)", windows=4, context=16, sequential=True)
    together, one_by_one = (
        run(n, options=o).report["layers"] for n, o in (("a", OPTIONS), ("b", options))
    )
    name = "model.layers.0.self_attn."
    assert together[name + "q_proj"] == one_by_one[name + "q_proj"]
    assert together[name + "o_proj"] != one_by_one[name + "o_proj"]
