"""Conditions for programs: ``dead>0.05`` on the measurements of an analysis."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from vq.analysis.catalogue import CATALOGUE
from vq.analysis.model import Analysis
from vq.codebooks.spec import nearest_names
from vq.errors import VqError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_FORM = re.compile(
    r"^\s*(?P<name>[A-Za-z][\w .,/-]*?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<value>\S+)\s*$"
)
VERDICT = "verdict"


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Attributes:
        text: as it was written.
        name: a measurement (``dead``), one of a kind of section (``usage.dead``) or of a part (``usage.stage 3.dead``).
        sign: of the comparison.
        value: number compared with; a word for ``verdict``.
    """

    text: str
    name: str
    sign: str
    value: float | str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as ``dead>0.05``, ``dead > 5%`` or ``verdict==bad``.

        Raises:
            VqError: for another form, or a name that no measurement has (with the nearest ones).
        """
        match = _FORM.match(text)
        if match is None:
            raise VqError(
                f"condition {text!r}: expected NAME and <, <=, >, >=, == or != and a number, such as dead>0.05"
            )
        name, sign, raw = match["name"], match["sign"], match["value"]
        key = name.rpartition(".")[2]
        if key == VERDICT:
            if sign not in ("==", "!=") or raw not in ("good", "warn", "bad"):
                raise VqError(
                    f"condition {text!r}: expected verdict==bad, verdict!=good or the like"
                )
            return cls(text, name, sign, raw)
        if key not in CATALOGUE:
            raise VqError(
                f"condition {text!r}: no measurement is called {key!r}; {nearest_names(key, CATALOGUE)}"
            )
        try:
            value = float(raw[:-1]) / 100 if raw.endswith("%") else float(raw)
        except ValueError as error:
            raise VqError(
                f"condition {text!r}: expected a number after {sign}, got {raw!r}"
            ) from error
        return cls(text, name, sign, value)

    def holds(self, analysis: Analysis) -> list[str]:
        """Where the condition is met, in words; empty where it is not.

        Raises:
            VqError: if there is nothing of that name in the analysis, or it has no value.
        """
        if isinstance(self.value, str):
            same = analysis.verdict == self.value
            return [f"verdict is {analysis.verdict}"] if same == (self.sign == "==") else []
        path = self.name.split(".")
        known = [
            (section, m)
            for section, m in analysis.measurements()
            if m.key == path[-1]
            and (len(path) < 2 or section.key == path[0])
            and (len(path) < 3 or section.part == ".".join(path[1:-1]))
        ]
        if not known:
            there = sorted({m.key for _, m in analysis.measurements()})
            raise VqError(
                f"condition {self.text!r}: {self.name} was not measured here; measured: {', '.join(there)}"
            )
        found, missing = [], []
        for section, m in known:
            where = f"{section.part}: " if section.part else ""
            if not isinstance(m.value, (int, float)):
                missing.append(f"{where}{m.note}")
            elif _OPERATORS[self.sign](float(m.value), self.value):
                found.append(f"{where}{m.key} is {m.value:.6g}")
        if missing and not found:
            raise VqError(f"condition {self.text!r}: {self.name} has no value here ({missing[0]})")
        return found
