"""The matrix quantizer x codebook size x seed at one autoencoder, on crops of photographs; see train_tokenizers.py."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tokenizer_rows import DIM, ROWS
from torch import Tensor
from torch.nn import functional

from vq.analysis.environment import machine, table, versions, write_json
from vq.quantizers import make
from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.code_use import CodeCounts
from vq.tokenizers.tokenizer import Tokenizer

CROP, BATCH, VALIDATION = 32, 32, 512
WARMUP = 1 / 3  # of the steps


class Crops:
    """Square crops of photographs: the left 75 % of each for training, the right 25 % held out.

    Args:
        folder: of images.

    Raises:
        SystemExit: if there are none.
    """

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        kinds = (".png", ".jpg", ".jpeg", ".webp")
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds)
        self.left, self.right = [], []
        for path in paths:
            image = Image.open(path).convert("RGB")
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            pixels = pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)
            cut = image.width * 3 // 4
            if min(image.height, cut, image.width - cut) >= CROP:
                self.left.append(pixels[:, :, :cut])
                self.right.append(pixels[:, :, cut:])
        if not self.left:
            raise SystemExit(
                f"no images of at least {4 * CROP} pixels in {folder}; "
                "python examples/get_data.py photos FOLDER fetches some"
            )

    def draw(self, count: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Crops ``(count, 3, 32, 32)`` from -1 to 1, each of an image drawn evenly."""
        images = self.right if held_out else self.left
        found = []
        for _ in range(count):
            image = images[int(torch.randint(len(images), (), generator=generator))]
            y, x = (
                int(torch.randint(n - CROP + 1, (), generator=generator)) for n in image.shape[1:]
            )
            found.append(image[:, y : y + CROP, x : x + CROP])
        return torch.stack(found).float() / 127.5 - 1


def seeded(*numbers: int) -> torch.Generator:
    """A generator for a combination of small numbers."""
    seed = 0
    for number in numbers:
        seed = seed * 1_000_003 + number
    return torch.Generator().manual_seed(seed)


def train(name: str, entries: int | None, seed: int, steps: int, crops: Crops) -> Tokenizer:
    """One cell of the matrix: L1 plus the quantizer's loss, Adam 1e-3; the same crops and weights for every row."""
    row = ROWS[name]
    quantizer = None
    if row.make is not None:
        assert entries is not None
        arguments = row.make(entries, seed)
        quantizer = make(arguments.pop("kind"), **arguments)
    tokenizer = Tokenizer(make_backbone("conv2d", factor=4, dim=DIM, seed=seed), quantizer).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    begin = round(WARMUP * steps) if row.start == "warm" else 0
    for step in range(steps):
        if quantizer is not None:
            if step == begin and (row.start != "none" or not quantizer.ready):
                _start(tokenizer, crops, seed)
            tokenizer.set_mode("bypass" if step < begin else "quantized")
        batch = crops.draw(BATCH, seeded(seed, 1, step))
        out = tokenizer(batch)
        loss = functional.l1_loss(out.values, batch)
        if out.quantized is not None:
            loss = loss + out.quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tokenizer.eval()


@torch.no_grad()
def _start(tokenizer: Tokenizer, crops: Crops, seed: int) -> None:
    assert tokenizer.quantizer is not None
    wanted = max(8 * max(tokenizer.quantizer.code_entries), 4096)
    count = -(-wanted // (CROP // 4) ** 2)
    generator = seeded(seed, 2)
    parts = [
        tokenizer.features(crops.draw(BATCH, generator)).reshape(-1, DIM)
        for _ in range(-(-count // BATCH))
    ]
    tokenizer.quantizer.start(torch.cat(parts)[:wanted], seeded(seed, 3))


@torch.no_grad()
def measure(tokenizer: Tokenizer, crops: Crops) -> dict[str, Any]:
    """PSNR of the mean squared error over all held-out crops, and how the codes are used."""
    generator = seeded(0, 4)
    error, counts = 0.0, None
    for _ in range(VALIDATION // BATCH):
        batch = crops.draw(BATCH, generator, held_out=True)
        if tokenizer.quantizer is None:
            out = tokenizer(batch).values
        else:
            codes = tokenizer.encode(batch)
            counts = counts or CodeCounts(tokenizer.quantizer.code_entries)
            counts.add(codes.transpose(0, 1))
            out = tokenizer.decode(codes)
        error += float((out.clamp(-1, 1) - batch).square().mean()) / (VALIDATION // BATCH)
    found: dict[str, Any] = {"psnr": 10 * math.log10(4 / error)}
    use = counts.use() if counts else []
    if use:
        found |= {
            "entries": [u.entries for u in use],
            "bits_per_token": sum(u.nominal for u in use),
            "tokens": use[0].tokens,
            "tokens_per_entry": use[0].tokens_per_entry,
            "utilization": sum(u.utilization for u in use) / len(use),
            "ceiling": sum(u.ceiling for u in use) / len(use),
            "perplexity": sum(u.perplexity for u in use) / len(use),
        }
    return found


def run(
    data: Path, rows: list[str], entries: list[int], seeds: list[int], steps: int, target: Path
) -> None:
    """Fill in the cells that the JSON lacks, write it after each, then the medians' table and the plot."""
    crops = Crops(data)
    done = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    have = {(r["row"], r["k"], r["seed"], r["steps"]) for r in done}
    for name in rows:
        for k in entries if ROWS[name].make else [None]:
            for seed in seeds:
                if (name, k, seed, steps) in have:
                    continue
                began = time.thread_time()
                found = measure(train(name, k, seed, steps, crops), crops)
                cell = {"row": name, "k": k, "seed": seed, "steps": steps, **found}
                cell["cpu_seconds"] = round(time.thread_time() - began, 1)
                done.append(cell)
                save(done, crops, target)
                print(
                    f"{name} K={k} seed {seed}: {found['psnr']:.2f} dB, "
                    f"utilization {found.get('utilization', math.nan):.1%}",
                    flush=True,
                )
    if done:
        save(done, crops, target)
        print(report(done))
        plot(done, target.with_suffix(".png"))


def save(done: list[dict[str, Any]], crops: Crops, target: Path) -> None:
    """Write the cells, their medians, and what they were measured on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "machine": machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "images": len(crops.left),
        "batch": BATCH,
        "validation_crops": VALIDATION,
        "warmup": WARMUP,
        "notes": {name: row.note for name, row in ROWS.items()},
        "medians": medians(done),
        "rows": done,
    }
    write_json(data, str(target))


def medians(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds, for each row, K and number of steps, in the order of ``ROWS``."""
    groups: dict[tuple[str, int | None, int], list[dict[str, Any]]] = {}
    for cell in done:
        groups.setdefault((cell["row"], cell["k"], cell["steps"]), []).append(cell)
    order = list(ROWS)
    found = []
    for (name, k, steps), cells in sorted(
        groups.items(), key=lambda item: (item[0][2], item[0][1] or 0, order.index(item[0][0]))
    ):
        middle: dict[str, Any] = {"row": name, "k": k, "steps": steps, "seeds": len(cells)}
        for key in ("psnr", "utilization", "ceiling", "perplexity", "tokens_per_entry"):
            if key in cells[0]:
                middle[key] = median(c[key] for c in cells)
        middle["psnr_range"] = max(c["psnr"] for c in cells) - min(c["psnr"] for c in cells)
        middle["bits_per_token"] = cells[0].get("bits_per_token")
        found.append(middle)
    return found


def report(done: list[dict[str, Any]]) -> str:
    """The medians as a table."""
    lines = []
    for m in medians(done):
        use = ["", "", "", "", ""]
        if "utilization" in m:
            use = [
                f"{m['bits_per_token']:.1f}",
                f"{m['utilization']:.1%}",
                f"{m['tokens_per_entry']:.0f}",
                f"{m['ceiling']:.1%}",
                f"{m['perplexity']:.0f}",
            ]
        psnr = [f"{m['psnr']:.2f}", f"{m['psnr_range']:.2f}"]
        lines.append([m["row"], str(m["k"] or ""), str(m["steps"]), str(m["seeds"]), *psnr, *use])
    heads = ["row", "K", "steps", "seeds", "PSNR dB", "range", "bits", "used", "N/K", "ceiling"]
    return table([*heads, "perplexity"], lines)


def plot(done: list[dict[str, Any]], target: Path) -> None:
    """PSNR and perplexity of the medians as bars, one colour for each K."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = max(m["steps"] for m in medians(done))
    middle = [m for m in medians(done) if m["steps"] == steps]
    names = [name for name in ROWS if any(m["row"] == name and m["k"] for m in middle)]
    sizes = sorted({m["k"] for m in middle if m["k"]})
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 0.35 * len(names) + 1.5), sharey=True)
    for panel, key, label in zip(
        panels, ("psnr", "perplexity"), ("PSNR, dB", "perplexity of the codes"), strict=True
    ):
        for i, k in enumerate(sizes):
            found = {m["row"]: m[key] for m in middle if m["k"] == k and key in m}
            at = [names.index(n) + (i - (len(sizes) - 1) / 2) * 0.8 / len(sizes) for n in found]
            panel.barh(at, list(found.values()), 0.8 / len(sizes), label=f"K = {k}")
        panel.set_xlabel(label)
        panel.grid(axis="x", alpha=0.3)
    bound = [m["psnr"] for m in middle if m["row"] == "none"]
    low = min(m["psnr"] for m in middle)
    panels[0].set_xlim(left=low - 1)
    if bound:
        panels[0].axvline(bound[0], color="black", linestyle=":", label="autoencoder")
    panels[1].set_xscale("log")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[0].legend()
    figure.suptitle(f"medians over seeds, {steps} steps, held-out crops")
    figure.tight_layout()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
