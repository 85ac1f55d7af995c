"""What the page about quantizers says is so."""

import re
from pathlib import Path

from vq.codebooks import FAMILIES
from vq.quantizers import KINDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "quantizers.md").read_text(encoding="utf-8")
KIND_TABLE, FAMILY_TABLE = TEXT.partition("## Which kind carries a family")[::2]


def first_column(text):
    cells = re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_example_runs():
    code = TEXT.partition("    import torch\n")[2].partition("\n## ")[0]
    scope = {}
    code = "import torch\n" + re.sub(r"^    ", "", code, flags=re.MULTILINE)
    exec(compile(code, "page", "exec"), scope)
    assert scope.keys() > {"torch"}  # it made something


def test_every_kind_is_explained_once():
    assert sorted(first_column(KIND_TABLE)) == sorted(KINDS)


def test_every_family_has_a_kind():
    assert sorted(first_column(FAMILY_TABLE)) == sorted(FAMILIES)
    for row in re.findall(r"^\| `.*$", FAMILY_TABLE, flags=re.MULTILINE):
        named = set(re.findall(r"`(\w+)`", row.split("|")[3]))
        same = "the kind of the same name" in row
        assert named & set(KINDS) and ("fixed" in named)
        assert not same or set(re.findall(r"`(\w+)`", row.split("|")[1])) <= set(KINDS)


def test_every_defect_has_a_test():
    rows = TEXT.partition("| defect | test |")[2].strip().splitlines()[1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            path = ROOT / file if "/" in file else Path(__file__).with_name(file)
            assert f"def {name}(" in path.read_text(encoding="utf-8"), name
