"""What the documents show exists: links, commands, Python."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if re.match(r"    (\$ )?vq [a-z]", line):
                yield pytest.param(
                    line.strip().removeprefix("$ "), id=f"{page.name}: {line.strip()}"
                )


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_shown_is_understood(command):
    words = shlex.split(command.partition("  #")[0])
    name = {"eval": "evaluate"}.get(words[1], words[1])
    module = importlib.import_module(f"vq.cli.{name}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    mixed = getattr(module, "INTERMIXED", False)
    (parser.parse_intermixed_args if mixed else parser.parse_args)(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    shown = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in shown} == set()


def test_codebook_example_of_the_guide():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    code = text.partition("    import torch\n")[2].partition("\n\n    import vq")[0]
    code = "import torch\n" + re.sub(r"^    ", "", code, flags=re.MULTILINE)
    code = code.replace("1000", "64")
    scope = {}
    exec(compile(code, "docs/index.md", "exec"), scope)
    assert float((scope["x"] - scope["values"]).square().mean()) == pytest.approx(0.071, rel=0.1)


def test_root_folders_hold_no_python():
    for name in ("codebooks", "compressors", "kernels", "tokenizers"):
        assert not list((ROOT / name).rglob("*.py"))


def test_the_makefile_describes_its_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z-]+):.*##", text, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony and set(phony.group(1).split()) == described
    assert {"setup", "demo", "test", "test-all", "lint", "bench", "docs", "help"} <= described
