"""Tables of code vectors out of codebooks and out of the stored state of quantizers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from vq.analysis.subject import Table
from vq.codebooks import Additive, Codebook, Product, Residual, build

Structure = Literal["one", "residual", "grouped"]
MOST_LISTED = 1 << 18  # entries of a codebook that are listed as a table


def tables_of(book: Codebook) -> tuple[tuple[Table, ...], Structure]:
    """Tables of a codebook of the library; none where its vectors cannot be listed."""
    if not book.fitted:
        return (), "one"
    if isinstance(book, Additive):
        tables = book.tables.detach().cpu().float()
        return tuple(Table(f"stage {i}", t) for i, t in enumerate(tables)), "residual"
    if isinstance(book, Residual):
        return _numbered("stage", _scaled(book)), "residual"
    if isinstance(book, Product):
        return _numbered("group", [table_of(part) for part in _parts(book)]), "grouped"
    listed = table_of(book)
    return ((Table("", listed),) if listed is not None else ()), "one"


def table_of(book: Any) -> Tensor | None:
    """All vectors of a codebook with one code each; None where there are too many."""
    entries = book.entries
    if entries is None or entries > MOST_LISTED or book.codes_shape != () or not book.fitted:
        return None
    with torch.no_grad():
        values: Tensor = book.decode(torch.arange(entries))
    return values.detach().cpu().float()


def _parts(book: Any) -> list[Any]:
    return [book.parts[i % len(book.parts)] for i in range(book.count)]


def _scaled(book: Residual) -> list[Tensor | None]:
    """Tables of the stages in the units of the sum."""
    tables = [table_of(part) for part in _parts(book)]
    if any(table is None for table in tables):
        return [None] * len(tables)
    return [t * _stage_scale(book, i) for i, t in enumerate(tables) if t is not None]


def _stage_scale(book: Residual, number: int) -> float:
    """What a stage's values are multiplied by in the sum: a difference of two decoded vectors tells."""
    part: Any = book.parts[number % len(book.parts)]
    zero = torch.zeros(1, book.count, dtype=torch.int64)
    other = zero.clone()
    values = part.decode(torch.arange(part.entries))
    other[0, number] = int((values - values[0]).square().sum(1).argmax())
    with torch.no_grad():
        change = (book.decode(other) - book.decode(zero)).double()
    step = (values[other[0, number]] - values[0]).double()
    return float((change[0] @ step) / step.square().sum().clamp_min(1e-30))


def _numbered(word: str, tables: list[Tensor | None]) -> tuple[Table, ...]:
    if any(table is None for table in tables):
        return ()
    return tuple(Table(f"{word} {i}", t) for i, t in enumerate(tables) if t is not None)


def tables_of_quantizer(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[tuple[Table, ...], Structure]:
    """Tables of a quantizer from its configuration and the tensors whose names lie below it.

    Args:
        config: with ``kind``; as a tokenizer's ``config.json`` has it.
        state: tensors by name, the quantizer's prefix taken off.
    """
    kind, of = config.get("kind"), config.get("of")
    if of is not None:
        prefix = "groups.parts" if kind == "factorized" else "parts"
        parts = of if isinstance(of, list) else [of]
        found = []
        for number, part in enumerate(parts):
            below = _below(state, f"{prefix}.{number}.")
            found.append(tables_of_quantizer(part, below)[0])
        word = "group" if kind in ("grouped", "factorized") else "stage"
        named = [
            Table(_name(word, i, t.name), t.values, t.cosine, t.counts)
            for i, tables in enumerate(found)
            for t in tables
        ]
        return tuple(named), "grouped" if word == "group" else "residual"
    if "table" in state and state["table"].ndim == 2:
        cosine = config.get("lookup") == "cosine"
        usage = state.get("revival.usage")
        return (Table("", state["table"].float(), cosine, usage),), "one"
    spec = config.get("codebook") or _grid(config)
    return _of_spec(spec, _below(state, "codebook."))


def _grid(config: Mapping[str, Any]) -> str | None:
    """Spec of the grid of a layer without a table."""
    kind, bits = config.get("kind"), config.get("bits")
    if kind == "fsq" and config.get("levels"):
        return f"fsq(levels={list(config['levels'])})"
    if kind in ("lfq", "bsq") and isinstance(bits, int):
        return f"{kind}(dim={bits})"
    if kind == "latent":
        return f"latent(dim={config.get('latents')}, levels={config.get('levels')})"
    return None


def _name(word: str, number: int, inner: str) -> str:
    return f"{word} {number}" + (f", {inner}" if inner else "")


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _of_spec(spec: Any, state: dict[str, Tensor]) -> tuple[tuple[Table, ...], Structure]:
    """Tables of a codebook that a spec builds and a state fills."""
    if not isinstance(spec, str):
        return (), "one"
    try:
        book = build(spec)
        book.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError):
        return (), "one"
    return tables_of(book)


def split_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the quantizer in the state dict of a tokenizer or of a training checkpoint, its prefix taken off."""
    pattern = re.compile(r"^(?:.*\.)?quantizer\.(.+)$")
    found = {}
    for name, tensor in state.items():
        match = pattern.match(name)
        if match:
            found[match.group(1)] = tensor
    return found
