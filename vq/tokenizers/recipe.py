"""Recipes: everything that determines a training run apart from the data, in YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vq._data_files import data_path
from vq.codebooks.spec import nearest_names
from vq.errors import VqError
from vq.tokenizers.code_spec import check_normalisation

DEFAULTS = {"image": "image-f4", "audio": "speech-16k"}
OFF = "none"  # as quantizer: an autoencoder, the upper bound of every comparison
_NEEDED = {"quantizer": "kind", "backbone": "name"}
_CHOICES = (
    "kind",
    "name",
)  # they say which other keys make sense; where one changes, the others start afresh
_NESTED = ("backbone", "quantizer", "loss", "gan")


@dataclass(frozen=True)
class Recipe:
    """How a tokenizer is built and trained; the keys of a recipe file.

    Attributes:
        kind: ``image`` or ``audio``.
        channels: 3 for colour, 1 for grey or mono.
        size: side of the square training crops, in pixels (images).
        resize: images are first scaled to this shorter side, in pixels; 0 keeps them.
        flip: mirror half of the crops (images).
        sample_rate: in Hz; files of another rate are converted (audio).
        seconds: length of a training clip (audio).
        normalisation: ``none``, or ``loudness``: files are brought to one level, the decoder gives each its own back
            (audio).
        backbone: ``name`` and arguments of the encoder and decoder.
        quantizer: ``kind`` and arguments of the quantizer; kind ``none`` trains an autoencoder.
        loss: arguments of the reconstruction loss.
        gan: empty for none; else ``start`` (fraction of the run), ``weight`` and arguments of the discriminator.
        steps: batches of the run.
        batch: items of a batch and process.
        learning_rate: of AdamW after the ramp.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm of all gradients together; 0 for no limit.
        ramp: fraction of the run in which the learning rate grows from 0.
        final: learning rate at the end, as a fraction of the largest; between them half a cosine.
        warmup: fraction of the run that trains the autoencoder alone, before the quantizer starts on its features.
        start_vectors: features the quantizer starts from; 0 takes 8 for each entry, between 4096 and 65536.
        patience: unusable steps in a row (not finite) after which the run stops.
        precision: of Lightning's Trainer; the quantizer itself always works in float32.
    """

    kind: str = "image"
    channels: int = 3
    size: int = 32
    resize: int = 0
    flip: bool = True
    sample_rate: int = 16000
    seconds: float = 1.0
    normalisation: str = "none"
    backbone: Mapping[str, Any] = field(default_factory=dict)
    quantizer: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    gan: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 5000
    batch: int = 32
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ramp: float = 0.02
    final: float = 0.1
    warmup: float = 0.33
    start_vectors: int = 0
    patience: int = 20
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            raise VqError(f"kind: expected image or audio, got {self.kind!r}")
        try:
            check_normalisation(self.kind, self.normalisation)
        except ValueError as error:
            raise VqError(str(error)) from error
        self._check_ranges()
        for name, choice in _NEEDED.items():
            if not isinstance(getattr(self, name).get(choice), str):
                raise VqError(f"{name}: expected a map with at least `{choice}`, a text")
        start = self.gan.get("start", 0.5)
        if not isinstance(start, (int, float)) or not 0 <= start < 1:
            raise VqError(f"gan.start: expected a fraction from 0 to below 1, got {start!r}")

    def _check_ranges(self) -> None:
        whole = {"channels": 1, "size": 1, "resize": 0, "sample_rate": 1, "steps": 1, "batch": 1}
        for name, low in {**whole, "start_vectors": 0, "patience": 1}.items():
            _at_least(name, getattr(self, name), low, int)
        for name in ("seconds", "learning_rate", "weight_decay", "clip"):
            _at_least(name, getattr(self, name), 0, float)
        if self.seconds == 0 or self.learning_rate == 0:
            raise VqError("seconds and learning_rate: expected more than 0")
        for name in ("ramp", "final", "warmup"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise VqError(f"{name}: expected a fraction from 0 to 1, got {value!r}")
        if self.warmup == 1 and self.quantized:
            raise VqError("warmup: 1 leaves no step for the quantizer; use less, e.g. 0.33")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise VqError(f"betas: expected two numbers from 0 to below 1, got {self.betas!r}")

    @property
    def quantized(self) -> bool:
        """Whether there is a quantizer at all."""
        return bool(self.quantizer.get("kind") != OFF)

    @property
    def item_size(self) -> tuple[int, ...]:
        """Size of a training item without its channels: pixels of both sides, or samples."""
        if self.kind == "image":
            return (self.size, self.size)
        return (round(self.seconds * self.sample_rate),)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        values = asdict(self)
        return {
            **values,
            **{name: dict(values[name]) for name in _NESTED},
            "betas": list(self.betas),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """A recipe from a mapping.

        Raises:
            VqError: for an unknown key (with the nearest known) or a wrong value.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise VqError(f"{where}: unknown key {key!r}; {nearest_names(str(key), known)}")
        for key in _NESTED:
            if not isinstance(values.get(key, {}), Mapping):
                raise VqError(f"{where}: {key} is a map of keys, got {values[key]!r}")
        plain = {key: _plain(value) for key, value in values.items()}
        if isinstance(plain.get("betas"), list):
            plain["betas"] = tuple(plain["betas"])
        try:
            return cls(**plain)
        except (TypeError, ValueError) as error:
            raise VqError(f"{where}: {error}") from error


def recipe_names(kind: str = "") -> list[str]:
    """Names of the shipped recipes, of one kind if given."""
    names = sorted(path.stem for path in data_path("tokenizers").glob("*.yaml"))
    return [name for name in names if not kind or read_recipe(name).kind == kind]


def read_recipe(name: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """A recipe with some keys changed.

    Args:
        name: of a shipped recipe, or the path of a YAML file. Its key ``base`` names the recipe it starts from.
        changes: texts ``key=value`` or ``map.key=value``, values in YAML: ``steps=300``,
            ``quantizer.codebook=kmeans(dim=8, entries=4096)``, ``gan={start: 0.5}``.

    Raises:
        VqError: if there is no such recipe, it is not YAML, bases form a circle, a key is unknown or a value wrong.
    """
    values = _inherited(name, ())
    for change in changes:
        values = merge(values, _parse_change(change))
    return Recipe.from_dict(values, f"recipe {name}")


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes over a base, maps key by key; a changed ``kind`` or ``name`` in a map drops its base's keys."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(before, Mapping) and value:
            if all(
                value.get(choice, before.get(choice)) == before.get(choice) for choice in _CHOICES
            ):
                merged[key] = merge(before, value)
    return merged


def _parse_change(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    path = key.strip().split(".")
    if not sign or not all(path):
        raise VqError(f"expected key=value or map.key=value, got {text!r}")
    if len(path) > 1 and path[0] not in _NESTED:
        raise VqError(
            f"{text!r}: {path[0]!r} has no keys of its own; {nearest_names(path[0], _NESTED)}"
        )
    parsed = _yaml(value, f"value of {key}")
    for part in reversed(path):
        parsed = {part: parsed}
    return dict(parsed)


def _inherited(name: str | Path, seen: tuple[str, ...]) -> dict[str, Any]:
    if str(name) in seen:
        raise VqError(f"recipe {name}: bases form a circle: {' -> '.join([*seen, str(name)])}")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(file.stem for file in data_path("tokenizers").glob("*.yaml"))
        if str(name) not in known:
            raise VqError(f"unknown recipe {str(name)!r}; {nearest_names(str(name), known)}")
        path = data_path("tokenizers", f"{name}.yaml")
    try:
        values = _yaml(path.read_text(encoding="utf-8"), f"recipe {name}")
    except (OSError, UnicodeDecodeError) as error:
        raise VqError(f"recipe {name}: {error}") from error
    if not isinstance(values, dict):
        raise VqError(f"recipe {name}: expected lines of key: value, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if Path(str(base)).suffix in (".yaml", ".yml"):
        base = path.parent / str(base)
    return merge(_inherited(base, (*seen, str(name))), values)


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise VqError(f"{where}: not valid YAML ({error})") from error


def _plain(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a text; here it is a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and value.strip()[:1] in "+-.0123456789" and value.strip():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _at_least(name: str, value: Any, low: float, kind: type) -> None:
    good = (int,) if kind is int else (int, float)
    if not isinstance(value, good) or isinstance(value, bool) or not value >= low:
        noun = "a whole number" if kind is int else "a number"
        raise VqError(f"{name}: expected {noun} of at least {low}, got {value!r}")
