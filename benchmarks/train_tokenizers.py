"""Do codebooks collapse, what cures it, and what does a trained tokenizer gain over codecs without a network?

python benchmarks/train_tokenizers.py toy --json benchmarks/results/tokenizers_toy.json
python benchmarks/train_tokenizers.py matrix --data PHOTOS --json benchmarks/results/tokenizers_matrix.json
python benchmarks/train_tokenizers.py matrix --data PHOTOS --rows vq vq-warm --entries 4096 --seeds 0 1 2 --json ...
python benchmarks/train_tokenizers.py speech RUN --data SPEECH --json benchmarks/results/tokenizers_speech.json
python benchmarks/train_tokenizers.py image RUN --data PHOTOS --json benchmarks/results/tokenizers_image.json

toy and matrix add to their JSON cell by cell and pass over the cells that are there, so that they can be run in
pieces. matrix writes a plot beside its JSON. speech and image measure a run of `vq train` on the files that it held
out of the same folder, and fit the baselines on the others.
"""

import argparse
from pathlib import Path

import tokenizer_compare
import tokenizer_matrix
import tokenizer_toy
import torch

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("toy", "matrix", "speech", "image"):
        part = parts.add_parser(name)
        part.add_argument("--json", type=Path, default=RESULTS / f"tokenizers_{name}.json")
        part.add_argument("--threads", type=int, default=1)
        if name in ("toy", "matrix"):
            known = {"toy": tokenizer_toy.ROWS, "matrix": tokenizer_matrix.ROWS}[name]
            part.add_argument("--rows", nargs="+", choices=list(known), default=list(known))
            part.add_argument("--entries", nargs="+", type=int, default=[1024, 4096])
            part.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
            part.add_argument("--steps", type=int, default=300)
        else:
            part.add_argument("run", type=Path, help="folder of a run of vq train")
            part.add_argument(
                "--files", type=int, default=0, help="held-out files at most (0: all)"
            )
            part.add_argument("--picture", type=Path, help="also draw some of them into this file")
        if name != "toy":
            part.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.part == "toy":
        tokenizer_toy.run(args.rows, args.entries, args.seeds, args.steps, args.json)
    elif args.part == "matrix":
        tokenizer_matrix.run(args.data, args.rows, args.entries, args.seeds, args.steps, args.json)
    else:
        tokenizer_compare.run(args.part, args.run, args.data, args.files, args.json, args.picture)


if __name__ == "__main__":
    main()
