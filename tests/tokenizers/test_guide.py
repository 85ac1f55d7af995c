"""The guide to tokenizers, run as it is written, with fewer and smaller pictures and fewer steps."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from vq.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tokenizers.md"


def blocks(text):
    """Indented blocks, each as one text."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip("\n") for block in found]


@pytest.mark.slow
def test_commands_and_python_of_the_guide(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for n, name in enumerate(("coffee", "b", "c", "d")):
        generator = torch.Generator().manual_seed(n)
        pixels = torch.randint(0, 255, (48, 53, 3), generator=generator)
        image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / "photos" / f"{name}.png")
    text = PAGE.read_text(encoding="utf-8")
    commands = [line for b in blocks(text) for line in b.splitlines() if line.startswith("vq ")]
    assert [c.split()[1] for c in commands].count("train") == 3 and len(commands) == 7
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "train":
            words = ["steps=6" if w == "steps=300" else w for w in words]
            words += ["batch=2", "backbone.width=8", "--threads", "1", "--quiet"]
        assert main(words) == 0, (command, capsys.readouterr().err)
    scope = {}
    for code in blocks(text):
        if code.startswith(("import ", "from ")):
            exec(compile(code, "docs/tokenizers.md", "exec"), scope)
    assert scope["found"].kind == "image" and scope["y"].shape == scope["x"].shape
