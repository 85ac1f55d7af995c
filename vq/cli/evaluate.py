"""Score a model on data it has not seen; what MODEL is decides how.

A language model on held-out text: perplexity, and against its original KL divergence and top-1 agreement. Bits per
weight are counted from the bytes of the checkpoint: codes, headers, scales, signs and tables of the quantized layers,
divided by their weights. --tasks runs tasks of lm-evaluation-harness beside it or alone.

A speech model (Whisper) on a folder of sounds, against its original: loss of the original's transcripts, each token
after the true ones, and the word error rate against them.

A tokenizer (the folder of a `vq train` run) on a folder of files: PSNR and SSIM, or SI-SDR, STFT and mel distance, with
confidence intervals over files; bits, counted from a real token file; use of the codes; all of it for every number of
stages.

  vq eval OUT --reference MODEL --text HELD_OUT.txt
  vq eval WHISPER --reference MODEL --audio SOUNDS
  vq eval runs/image-f4 photos/ --held-out
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import add_common, apply_threads, progress
from vq.cli.models import open_model
from vq.errors import VqError

INTERMIXED = True  # positional arguments may follow options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq eval``."""
    parser.add_argument(
        "model", metavar="MODEL", help="model folder, .gguf file or hub id; tokenizer or its run"
    )
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="tokenizers: folder of images or sounds, or a file"
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="tokenizers: only the files of DATA that `vq train` holds out of it",
    )
    parser.add_argument("--text", nargs="+", metavar="FILE", help="held-out text: files or folders")
    parser.add_argument(
        "--audio", nargs="+", metavar="FILE", help="speech models: sounds, files or folders"
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="YAML", help="tasks of lm-evaluation-harness with local data"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N documents of a task, or N sounds"
    )
    parser.add_argument("--reference", metavar="MODEL", help="the original, for KL and agreement")
    parser.add_argument(
        "--context", type=int, default=1024, metavar="N", help="tokens a window (default: 1024)"
    )
    parser.add_argument(
        "--windows", type=int, metavar="N", help="at most N windows, spread evenly (default: all)"
    )
    parser.add_argument("--mode", choices=("int8", "int15", "float"), help="activation mode")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Score and print."""
    apply_threads(args)
    if _is_tokenizer(args.model):
        from vq.cli.eval_tokenizer import run as run_tokenizer

        return run_tokenizer(args)
    if args.data is not None or args.held_out:
        raise VqError(
            f"{args.model} is no tokenizer of `vq train`; a language model is scored on text, --text FILE"
        )
    if args.audio is not None:
        return _run_speech(args)
    if args.text is None and args.tasks is None:
        raise VqError(
            "--text FILE: expected held-out text for a language model (--audio for a speech model, --tasks)"
        )
    _run_language_model(args)


def _is_tokenizer(name: str) -> bool:
    """Whether this is the folder of a tokenizer, or of a run that makes one."""
    from vq.tokenizers.codec import find_tokenizer

    return find_tokenizer(name) is not None or (Path(name) / "run.json").is_file()


def _run_language_model(args: argparse.Namespace) -> None:
    from vq.compressors.calibration.texts import read_texts, tokenize
    from vq.compressors.scores.evaluate import score, text_windows

    texts = read_texts(args.text) if args.text else None
    model, tokenizer = open_model(args.model, mode=args.mode)
    scores: dict[str, Any] = {}
    if texts is not None:
        windows = text_windows(tokenize(texts, tokenizer), args.context, args.windows)
        reference = open_model(args.reference)[0] if args.reference else None
        done, close = progress(len(windows), "scoring", "window")
        scores = asdict(score(model, windows, reference, done))
        close()
    if args.tasks:
        from vq.compressors.scores.tasks import run_tasks

        limits = {"context": args.context, "limit": args.limit, "seed": args.seed}
        scores["tasks"] = run_tasks(model, tokenizer, args.tasks, **limits)
    _show(args, scores, _report)


def _run_speech(args: argparse.Namespace) -> None:
    """Loss and word errors of a speech model against its original."""
    import torch

    from vq.compressors.calibration.sounds import sound_files
    from vq.compressors.calibration.speech import open_listener
    from vq.compressors.files.source import locate
    from vq.compressors.loading import load
    from vq.compressors.scores.speech import score_speech

    if args.reference is None:
        raise VqError(
            "--reference MODEL: a speech model is scored against its original's transcripts"
        )
    files = sound_files(args.audio)
    if args.limit is not None and args.limit < len(files):
        places = torch.linspace(0, len(files) - 1, args.limit, dtype=torch.float64).round().long()
        files = [files[i] for i in places.tolist()]
    reference = load(args.reference, dtype=torch.float32)
    listener = open_listener(locate(args.model), args.model)
    model = load(args.model, dtype=torch.float32, mode=args.mode)
    done, close = progress(len(files), "listening", "file")
    scores = asdict(score_speech(model, reference, listener, files, done))
    close()
    _show(args, scores, _speech_report)


def _show(
    args: argparse.Namespace, scores: dict[str, Any], report: Callable[[dict[str, Any]], str]
) -> None:
    """Print the scores, as JSON where that is asked for."""
    data = {"model": args.model, "reference": args.reference, **scores, **_size(args.model)}
    data |= {"seed": args.seed, "machine": machine(), "versions": versions()}
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(report(data))


def _size(name: str) -> dict[str, Any]:
    """Bits and bytes, where the model is a folder of safetensors or one file."""
    from vq.compressors.checkpoint.size import measure_size

    path = Path(name)
    if path.is_dir():
        size = measure_size(path)
        return {
            "bits_per_weight": size.bits_per_weight,
            "total_bits_per_weight": size.total_bits_per_weight,
            "file_bytes": size.file_bytes,
        }
    nothing = {"bits_per_weight": None, "total_bits_per_weight": None}
    return {**nothing, "file_bytes": path.stat().st_size if path.is_file() else None}


def _report(data: dict[str, Any]) -> str:
    """The scores as a table of two columns."""
    rows = []
    if "perplexity" in data:
        rows.append(["perplexity", f"{data['perplexity']:.3f}"])
        if data["reference_perplexity"] is not None:
            ratio = data["perplexity"] / data["reference_perplexity"]
            rows += [
                ["perplexity of the reference", f"{data['reference_perplexity']:.3f}"],
                ["ratio", f"{ratio:.3f}"],
                ["KL to the reference (nats a token)", f"{data['kl']:.4f}"],
                ["top-1 agreement", f"{data['top1']:.1%}"],
            ]
        rows += [["context", str(data["context"])], ["tokens", str(data["tokens"])]]
    for task, metrics in data.get("tasks", {}).items():
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
        rows += [[f"{task}: {key}", f"{value:.4f}"] for key, value in numbers.items()]
    return table([data["model"], ""], rows + _size_rows(data))


def _speech_report(data: dict[str, Any]) -> str:
    """Scores of a speech model as a table of two columns."""
    rows = [
        ["loss of the original's transcripts (nats a token)", f"{data['loss']:.4f}"],
        ["the same of the original", f"{data['reference_loss']:.4f}"],
        ["word error rate against the original", f"{data['word_error_rate']:.2%}"],
        ["transcripts that are the same", f"{data['same']} of {data['files']}"],
        ["words", str(data["words"])],
        ["tokens", str(data["tokens"])],
    ]
    return table([data["model"], ""], rows + _size_rows(data))


def _size_rows(data: dict[str, Any]) -> list[list[str]]:
    rows = []
    if data["bits_per_weight"] is not None:
        rows.append(["bits per weight, quantized layers", f"{data['bits_per_weight']:.3f}"])
        rows.append(["bits per weight, whole model", f"{data['total_bits_per_weight']:.3f}"])
    if data["file_bytes"] is not None:
        rows.append(["file, MB", f"{data['file_bytes'] / 1e6:.1f}"])
    return rows
