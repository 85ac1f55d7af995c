import sys
import types

import pytest

from vq.compressors.scores.tasks import run_tasks, task_names
from vq.errors import VqError

TASK = "task: capitals\ndataset_path: json\ndoc_to_text: !function utils.text\n"


def test_names_of_tasks(tmp_path):
    (tmp_path / "a.yaml").write_text(TASK)
    assert task_names([tmp_path / "a.yaml"]) == {"capitals": tmp_path / "a.yaml"}
    for text, reason in (("x: 1", "a line `task: NAME`"), ("a: [", "not valid YAML")):
        (tmp_path / "b.yaml").write_text(text)
        with pytest.raises(VqError, match=reason):
            task_names([tmp_path / "b.yaml"])
    with pytest.raises(VqError, match="No such file"):
        task_names([tmp_path / "none.yaml"])


def test_without_the_harness(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    (tmp_path / "a.yaml").write_text(TASK)
    with pytest.raises(VqError, match=r"pip install 'vq-toolkit\[eval\]'"):
        run_tasks(None, None, [tmp_path / "a.yaml"])


def test_the_harness_is_given_the_model_and_the_folder(tmp_path, monkeypatch):
    """The harness itself is replaced: what it is called with, and what of its answer is kept."""
    calls = {}

    def simple_evaluate(**arguments):
        calls.update(arguments)
        return {"results": {"capitals": {"acc,none": 0.5, "alias": "capitals", "samples": [1]}}}

    def module(name, **content):
        made = types.ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("lm_eval", simple_evaluate=simple_evaluate)
    module("lm_eval.models")
    module("lm_eval.models.huggingface", HFLM=lambda **a: ("wrapped", a))
    module("lm_eval.tasks", TaskManager=lambda **a: ("manager", a))
    (tmp_path / "a.yaml").write_text(TASK)
    found = run_tasks("model", "tokenizer", [tmp_path / "a.yaml"], context=64, limit=3)
    assert found == {"capitals": {"acc,none": 0.5, "alias": "capitals"}}
    assert calls["model"][1]["pretrained"] == "model" and calls["model"][1]["max_length"] == 64
    assert calls["tasks"] == ["capitals"] and calls["limit"] == 3
    assert calls["task_manager"][1]["include_path"] == [str(tmp_path.resolve())]


@pytest.mark.hf
@pytest.mark.slow
def test_the_harness_itself_on_a_local_task(llama, text, tmp_path, monkeypatch):
    """Where it is installed: accuracy is what comparing the likelihoods of the answers gives."""
    pytest.importorskip("lm_eval")
    import json

    import torch

    import vq

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    words = text.read_text().split()
    questions = [(words[5 * i], words[5 * i + 1 : 5 * i + 4], i % 3) for i in range(12)]
    lines = [json.dumps({"q": q, "choices": c, "gold": g}) for q, c, g in questions]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "task.yaml").write_text(
        "task: letters\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tmp_path / 'data.jsonl'}\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: gold\ndoc_to_choice: choices\nmetric_list:\n  - metric: acc\n'
    )
    model, tokenizer = vq.load(llama, dtype=torch.float32), vq.load_tokenizer(llama)
    tokenizer.eos_token = words[0]  # the harness wants one
    found = run_tasks(model, tokenizer, [tmp_path / "task.yaml"], context=32)

    def likelihood(question, answer):
        start = tokenizer(question, add_special_tokens=False).input_ids
        whole = tokenizer(question + " " + answer, add_special_tokens=False).input_ids
        logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(float(logp[i - 1, whole[i]]) for i in range(len(start), len(whole)))

    right = [
        max(range(len(c)), key=lambda i, q=q, c=c: likelihood(q, c[i])) == g
        for q, c, g in questions
    ]
    assert found["letters"]["acc,none"] == pytest.approx(sum(right) / len(right))
