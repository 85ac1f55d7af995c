"""Tasks of lm-evaluation-harness on a loaded model, from local YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vq.errors import VqError


def task_names(files: Sequence[str | Path]) -> dict[str, Path]:
    """Names of the tasks that some YAML files describe.

    Args:
        files: of lm-evaluation-harness, each with a ``task`` entry.

    Raises:
        VqError: if a file is missing, not YAML, or names no task.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads ``!function`` and other tags of the harness as nothing."""

    Loader.add_multi_constructor("!", lambda *_: None)
    found: dict[str, Path] = {}
    for given in files:
        path = Path(given).expanduser()
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        except OSError as error:
            raise VqError(f"--tasks {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise VqError(f"--tasks {path}: not valid YAML ({error})") from error
        name = values.get("task") if isinstance(values, dict) else None
        if not isinstance(name, str):
            raise VqError(
                f"--tasks {path}: expected a task of lm-evaluation-harness, with a line `task: NAME`"
            )
        found[name] = path
    return found


def run_tasks(
    model: Any,
    tokenizer: Any,
    files: Sequence[str | Path],
    *,
    context: int = 1024,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Metrics of tasks by their names.

    Args:
        model: a causal language model.
        tokenizer: of it.
        files: YAML files of tasks; their data must be local, nothing is fetched.
        context: most tokens of a request.
        limit: documents of a task; None for all.
        seed: of few-shot examples.

    Raises:
        VqError: if the harness is not installed, or a file is wrong.
    """
    names = task_names(files)
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise VqError(
            f"--tasks needs lm-evaluation-harness: pip install 'vq-toolkit[eval]' ({error})"
        ) from error
    folders = sorted({str(path.parent.resolve()) for path in names.values()})
    manager = TaskManager(include_path=folders)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, max_length=context, batch_size=1)
    made = simple_evaluate(
        model=wrapped,
        tasks=list(names),
        task_manager=manager,
        limit=limit,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        bootstrap_iters=0,
    )
    results: dict[str, dict[str, Any]] = made["results"]
    plain = (int, float, str)
    return {
        name: {key: value for key, value in values.items() if isinstance(value, plain)}
        for name, values in results.items()
    }
