import pytest
import torch

from vq.compressors.calibration.samples import read_samples
from vq.compressors.files.source import open_source
from vq.compressors.options import CompressOptions
from vq.compressors.structure.skeleton import build_skeleton
from vq.errors import VqError

pytestmark = pytest.mark.hf
OPTIONS = CompressOptions(codebook="scalar(bits=2)", windows=3, context=16)


@pytest.fixture
def read(llama, tmp_path):
    source = open_source(llama, tmp_path)
    skeleton = build_skeleton(source)

    def call(calibration, options=OPTIONS, weights=None):
        return read_samples(calibration, source, skeleton, options, weights)

    return call


def test_all_forms_of_the_same_text_are_the_same(read, text):
    content = text.read_text()
    forms = [text, str(text), [text], content, [{"text": content}], (row for row in [content])]
    samples = [read(form) for form in forms]
    assert len({s.digest for s in samples}) == 1
    assert all(
        torch.equal(samples[0].inputs[2]["input_ids"], s.inputs[2]["input_ids"]) for s in samples
    )
    assert samples[0].summary["text_tokens"] == 2000 and len(samples[0]) == 3
    tokens = torch.tensor([int(word[1:]) + 1 for word in content.split()])
    for form in (tokens, [tokens[:700], tokens[700:]], tokens.reshape(20, 100)):
        assert read(form).digest == samples[0].digest


def test_arguments_of_the_model(read):
    windows = [{"input_ids": torch.arange(8)[None] + i} for i in range(5)]
    samples = read(windows)
    assert len(samples) == 3 and torch.equal(samples.inputs[1]["input_ids"][0], torch.arange(8) + 1)
    assert read(windows).digest == samples.digest != read(windows[1:]).digest


def test_token_weights_are_checked_and_count_for_the_digest(read, text):
    plain = read(text)
    by_function = read(text, weights=lambda tokens: (tokens % 2) + 1)
    assert by_function.digest != plain.digest
    row = plain.inputs[0]["input_ids"][0]
    assert torch.equal(by_function.weights[0], (row % 2 + 1).float())
    listed = read(text, weights=[w["input_ids"][0] % 2 + 1 for w in plain.inputs])
    assert listed.digest == by_function.digest
    with pytest.raises(VqError, match=r"window 0: expected 16 numbers, got 3"):
        read(text, weights=lambda tokens: tokens[:3])
    with pytest.raises(VqError, match="none below 0"):
        read(text, weights=lambda tokens: tokens * 0 - 1)


@pytest.mark.parametrize("data", [[], [1, 2], [torch.rand(9)]])
def test_wrong_data_is_refused(read, data):
    with pytest.raises(VqError, match="calibration"):
        read(data)
