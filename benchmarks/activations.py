"""How far are the integer modes from the exact product on a real model's activations? Layer by layer, and at the end.

    python benchmarks/activations.py COMPRESSED --text held-out.txt --json benchmarks/results/activations.json

Every packed layer sees what the model gives it on held-out text (its float mode before it); its output in `int8` and
`int15` mode is compared with that of `float` mode: root mean square of the difference over that of the output. The
peak is the largest activation after the rotation over their root mean square, the worst token. At the end: divergence
of the model's predictions in each mode from those in float mode.
"""

import argparse
from pathlib import Path

import torch

import vq
from vq.analysis.environment import result, table, write_json
from vq.compressors.layers.embedding import QuantizedEmbedding
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.loading import set_mode
from vq.compressors.scores.evaluate import text_windows
from vq.kernels.hadamard import hadamard

MODES = ("int15", "int8")
ROWS = 32


def error(exact: torch.Tensor, found: torch.Tensor) -> float:
    """Relative, root mean square."""
    return float((exact - found).double().norm() / exact.double().norm().clamp_min(1e-30))


def outputs(layer: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    """Of a few rows at a time: the float path serves very many at once in every mode."""
    return torch.cat([layer(part) for part in x.split(ROWS)])


def predictions(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Log-probabilities, window by window."""
    parts = [model(window[None], use_cache=False).logits[0] for window in windows]
    return torch.stack(parts).log_softmax(-1)


def peak(layer: QuantizedLinear, x: torch.Tensor) -> float:
    """Largest activation that is rounded, over their root mean square, in the worst token."""
    turned = x if layer.signs_in is None else hadamard(x.contiguous(), layer.signs_in, None)
    return float((turned.abs().amax(-1) / turned.square().mean(-1).sqrt().clamp_min(1e-30)).max())


def inputs_of(model: torch.nn.Module, windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each packed linear layer is given, by name."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].clone()}))
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear) and not isinstance(layer, QuantizedEmbedding)
    ]
    model(windows, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def measure_layers(model: torch.nn.Module, windows: torch.Tensor) -> list[dict]:
    """Error of each layer in each mode, on the inputs that it has in float mode."""
    rows = []
    for name, found in inputs_of(model, windows).items():
        layer, x = model.get_submodule(name), found.flatten(0, -2)
        exact = outputs(layer, x)
        row = {"layer": name, "tokens": len(x), "peak": peak(layer, x)}
        for mode in MODES:
            set_mode(layer, mode)
            row[mode] = error(exact, outputs(layer, x))
        set_mode(layer, "float")
        rows.append(row)
    return rows


def divergences_of(model: torch.nn.Module, windows: torch.Tensor) -> dict[str, float]:
    """KL of the predictions in each mode from those in float mode, nats a token."""
    wanted = predictions(model, windows)
    divergences = {}
    for mode in MODES:
        set_mode(model, mode)
        found = predictions(model, windows)
        divergences[mode] = float((wanted.exp() * (wanted - found)).sum(-1).double().mean())
    return divergences


def line(kind: str, rows: list[dict]) -> list[str]:
    """A row of the table: layers of one kind."""
    those = [row for row in rows if row["layer"].endswith(kind)]
    worst = max(those, key=lambda row: row["int8"])
    medians = [float(torch.tensor([row[m] for row in those]).median()) for m in MODES]
    return [
        kind, str(len(those)), *(f"{m:.2e}" for m in medians), f"{worst['int8']:.2e}",
        f"{max(row['int15'] for row in those):.2e}", worst["layer"], f"{worst['peak']:.1f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--json", default="benchmarks/results/activations.json")
    args = parser.parse_args()
    model = vq.load(args.model, dtype=torch.float32, mode="float")
    tokenizer = vq.load_tokenizer(args.model)
    ids = tokenizer(Path(args.text).read_text(), return_tensors="pt").input_ids[0]
    windows = text_windows(ids, args.context, args.windows)
    with torch.no_grad():
        rows = measure_layers(model, windows)
        divergences = divergences_of(model, windows)
    kinds = sorted({row["layer"].rsplit(".", 1)[-1] for row in rows})
    print(table(
        ["layers", "count", "int15 median", "int8 median", "int8 worst", "int15 worst", "worst layer", "its peak"],
        [line(kind, rows) for kind in kinds],
    ))  # fmt: skip
    print("KL from float mode:", ", ".join(f"{m} {v:.2e}" for m, v in divergences.items()))
    rows.append({"kl_from_float_mode": divergences})
    write_json(result(rows, 0), args.json)


if __name__ == "__main__":
    main()
