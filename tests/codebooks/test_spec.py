import pytest

from vq.codebooks import Spec, build

TEXTS = [
    "scalar(bits=2)",
    "trellis(bits=2, memory=12, code=hash)",
    "residual(stages=2, of=kmeans(dim=8, entries=256))",
    "product(groups=4, of=residual(stages=2, of=kmeans(dim=2, entries=16)))",
    "e8p()",
    "fsq(levels=[8, 8, 8, 5, 5, 5])",
    "mixed(rate=2.25, exact=true, low=-3, name=lut, empty=[])",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_form_parses_back(text):
    spec = Spec.parse(text)
    assert str(spec) == text
    assert Spec.parse(str(spec)) == spec
    assert hash(spec) == hash(Spec.parse(text))


def test_whitespace_and_missing_parentheses():
    assert str(Spec.parse(" trellis ( bits = 2,memory=12 ) ")) == "trellis(bits=2, memory=12)"
    assert Spec.parse("e8p") == Spec.parse("e8p()")


def test_values_keep_their_types():
    spec = Spec.parse("x(a=2, b=2.0, c=true, d=lut, e=[1, 2], f=y(z=1))")
    assert [type(value) for _, value in spec.args] == [int, float, bool, str, tuple, Spec]
    assert spec.get("a") == 2 and spec.get("nothing", 5) == 5


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("trellis(bits=2", "expected ','"),
        ("x(1)", "a name at character 2"),
        ("x(a=1, a=2)", "another argument than 'a'"),
        ("", "the end"),
        ("x(a=1) y", "nothing more"),
        ("x(a=$)", "character 4"),
        ("x(a=2b)", "character 4"),
    ],
)
def test_wrong_text_says_where(text, part):
    with pytest.raises(ValueError, match="codebook spec") as caught:
        Spec.parse(text)
    assert part in str(caught.value)


def test_build_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean scalar"):
        build("scalr(bits=2)")
    with pytest.raises(ValueError, match="did you mean bits"):
        build("scalar(bit=2)")


def test_build_refuses_values_out_of_range():
    for text in ("scalar(bits=9)", "scalar(bits=2.5)", "kmeans(dim=0)", "kmeans(entries=1)"):
        with pytest.raises(ValueError, match="must be a whole number"):
            build(text)
