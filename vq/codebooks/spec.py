"""The text form of a codebook: ``trellis(bits=2, memory=12, code=hash)``.

Command line, recipes, checkpoints and reports all name a codebook by this text. It is parsed here and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

Value = Union[int, float, bool, str, "Spec", tuple["Value", ...]]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)(?![A-Za-z_])"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>[()\[\],=]))"
)


@dataclass(frozen=True)
class Spec:
    """A codebook's name and arguments, in the order they were given.

    Attributes:
        name: family, for instance ``trellis``.
        args: pairs of argument name and value; a value is a number, a word, a list or another spec.
    """

    name: str
    args: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        """The text form; ``Spec.parse(str(spec)) == spec``."""
        inner = ", ".join(f"{key}={_text(value)}" for key, value in self.args)
        return f"{self.name}({inner})"

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """Value of an argument, or ``default``."""
        return dict(self.args).get(key, default)

    @classmethod
    def make(cls, name: str, /, **args: Value) -> Spec:
        """A spec from keyword arguments; lists become tuples."""
        return cls(name, tuple((key, _freeze(value)) for key, value in args.items()))

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read a spec from its text form.

        Raises:
            ValueError: if the text is not of the form ``name(key=value, ...)``; says where.
        """
        if not isinstance(text, str):
            raise TypeError(f"a codebook spec is a text such as 'kmeans(dim=8)', got {text!r}")
        reader = _Reader(text)
        spec = reader.spec()
        reader.end()
        return spec


def nearest_names(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the known names, the nearest first."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def _freeze(value: Value | list[Value]) -> Value:
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


class _Reader:
    """Recursive descent over the tokens of one spec."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._scan())
        self.at = 0

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        position = 0
        while self.text[position:].strip():
            match = _TOKEN.match(self.text, position)
            if match is None or match.lastgroup is None:
                raise self._error("a name, a number or one of ( ) [ ] , =", position)
            kind = match.lastgroup
            yield kind, match.group(kind), match.start(kind)
            position = match.end()

    def _error(self, expected: str, position: int) -> ValueError:
        got = self.text[position:].strip()[:12] or "the end"
        return ValueError(
            f"codebook spec {self.text!r}: expected {expected} at character {position}, got "
            f"{got!r}; write it as name(key=value, ...), for instance trellis(bits=2, memory=12)"
        )

    def _peek(self) -> tuple[str, str, int]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", len(self.text))

    def _take(self, kind: str, sign: str = "") -> str:
        found, text, position = self._peek()
        if found != kind or (sign and text != sign):
            raise self._error(f"'{sign}'" if sign else f"a {kind}", position)
        self.at += 1
        return text

    def end(self) -> None:
        if self.at != len(self.tokens):
            raise self._error("nothing more", self._peek()[2])

    def spec(self) -> Spec:
        name = self._take("name")
        if self._peek()[1] != "(":
            return Spec(name)
        return Spec(name, self._arguments())

    def _arguments(self) -> tuple[tuple[str, Value], ...]:
        self._take("sign", "(")
        args: list[tuple[str, Value]] = []
        while self._peek()[1] != ")":
            if args:
                self._take("sign", ",")
            position = self._peek()[2]
            key = self._take("name")
            if key in dict(args):
                raise self._error(f"another argument than {key!r} again", position)
            self._take("sign", "=")
            args.append((key, self._value()))
        self._take("sign", ")")
        return tuple(args)

    def _value(self) -> Value:
        kind, text, position = self._peek()
        if kind == "number":
            self.at += 1
            return float(text) if re.search(r"[.eE]", text) else int(text)
        if text == "[":
            return self._list()
        if kind != "name":
            raise self._error("a value", position)
        if text in ("true", "false"):
            self.at += 1
            return text == "true"
        following = self.tokens[self.at + 1][1] if self.at + 1 < len(self.tokens) else ""
        return self.spec() if following == "(" else self._take("name")

    def _list(self) -> tuple[Value, ...]:
        self._take("sign", "[")
        items: list[Value] = []
        while self._peek()[1] != "]":
            if items:
                self._take("sign", ",")
            items.append(self._value())
        self._take("sign", "]")
        return tuple(items)
