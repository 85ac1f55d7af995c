"""Tables we trained on N(0, 1) and ship, by the spec they belong to."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vq._data_files import data_path
from vq.codebooks.spec import Spec

SEARCH_ARGS = ("beam", "rounds")  # how to search and to fit: the table is the same


@dataclass(frozen=True, eq=False)
class Shipped:
    """Contents of a file.

    Attributes:
        state: float32 tensors by the names of ``state_dict``.
        mse: measured on held-out N(0, 1), by beam; "1" for codebooks without one.
    """

    state: dict[str, Tensor]
    mse: dict[str, float]


def shipped_name(spec: Spec) -> str:
    """File name of a spec's tables, for instance ``additive-stages-2-dim-8-entries-256.safetensors``."""
    return re.sub(r"[^a-z0-9.]+", "-", str(without_search(spec))).strip("-") + ".safetensors"


def without_search(spec: Spec) -> Spec:
    """The spec without the arguments that leave the table as it is."""
    return Spec(spec.name, tuple(pair for pair in spec.args if pair[0] not in SEARCH_ARGS))


@functools.cache
def shipped(spec: Spec) -> Shipped | None:
    """What we ship for a spec, or None."""
    try:
        path = data_path("codebooks", shipped_name(spec))
    except FileNotFoundError:
        return None
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        if about.get("spec") != str(without_search(spec)):
            return None
        state = {key: file.get_tensor(key).float() for key in file.keys()}
    return Shipped(state, json.loads(about["mse"]))


def load_shipped(codebook: nn.Module, spec: Spec) -> None:
    """Put the shipped tables of a spec into a codebook, if there are any."""
    found = shipped(spec)
    if found is not None:
        codebook.load_state_dict(found.state)


def shipped_mse(codebook: nn.Module, spec: Spec, beam: int = 1) -> float | None:
    """The measured figure, if the codebook still holds the shipped tables and it was measured with this beam."""
    found = shipped(spec)
    if found is None or str(beam) not in found.mse:
        return None
    state = codebook.state_dict()
    same = all(torch.equal(state[key].cpu().float(), value) for key, value in found.state.items())
    return found.mse[str(beam)] if same else None


@functools.cache
def stack_mse(spec: str) -> float | None:
    """Measured distortion of a sum of fixed parts, for which no table is shipped; None where it was not measured."""
    text = data_path("codebooks", "stacks.json").read_text(encoding="utf-8")
    found: float | None = json.loads(text)["mse"].get(spec)
    return found
