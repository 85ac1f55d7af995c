"""Rules of the verdict on training, on compressed weights, and on two subjects side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vq.analysis.model import Finding, Section
from vq.analysis.rules.words import REVIVE, of
from vq.analysis.subject import Subject


def training(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Use of entries at the end of training, movement of tables, steps lost."""
    (section,) = sections[:1]
    use, trend = section.number("utilization"), section.number("utilization_trend") or 0.0
    if use is not None:
        yield _use_in_training(use, trend, section)
    churn = section.number("churn")
    if churn is not None and churn > 0.3:
        yield Finding(
            "warn",
            f"The table still moves: {churn:.0%} of vectors changed their entry between the last checkpoints.",
            f"drift {section.number('drift') or 0:.2g} of the table's norm",
            "train on, or lower the learning rate towards the end",
            "training",
        )
    skipped = section.number("skipped")
    if skipped:
        yield Finding(
            "warn",
            f"{skipped:.0f} steps were skipped.",
            "values that were not finite",
            "lower the learning rate",
            "training",
        )


def _use_in_training(use: float, trend: float, section: Section) -> Finding:
    about = section.get("utilization")
    reason = f"{about.note if about else ''}; change over the run {trend:+.0%}".strip("; ")
    if use < 0.2:
        text = f"At the end of training {use:.0%} of the entries were in use."
        return Finding("bad", text, reason, REVIVE, "training")
    if trend < -0.1:
        text = f"Use of the entries fell by {-trend:.0%} since early in training, to {use:.0%}."
        return Finding("warn", text, reason, REVIVE, "training")
    text = f"{use:.0%} of the entries were in use at the end of training."
    return Finding("good", text, reason, "", "training")


def compare(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """What two subjects have in common."""
    for s in sections:
        cosine, agreement, snr = (
            s.number(key) for key in ("matched_cosine", "agreement", "snr_change")
        )
        if cosine is not None:
            alike = "are nearly the same" if cosine > 0.95 else "are related"
            alike = "differ" if cosine < 0.5 else alike
            yield Finding(
                "note",
                f"The two tables{of([s])} {alike}.",
                f"mean cosine of matched entries {cosine:.3f}, CKA {s.number('cka') or 0:.2f}",
                "",
                "compare",
                s.part,
            )
        if agreement is not None:
            yield Finding(
                "note",
                f"The two give equal codes at {s.number('same_codes') or 0:.0%} of the positions.",
                f"adjusted mutual information {agreement:.2f}",
                "",
                "compare",
            )
        yield from _use_compared(s)
        if snr is not None:
            word = "more" if snr > 0 else "less"
            rate = s.number("rate_change") or 0.0
            change = "as much" if abs(snr) < 0.005 else f"{abs(snr):.2f} dB {word}"
            yield Finding(
                "note",
                f"The second has {change} signal to noise at {rate:+.3g} bits a dimension.",
                "on the same vectors",
                "",
                "compare",
            )


def _use_compared(section: Section) -> Iterator[Finding]:
    """Whether two sets of codes use the entries alike."""
    divergence = section.get("use_divergence")
    if divergence is None or not isinstance(divergence.value, float):
        return
    value = divergence.value
    differs = value > 0.02
    text = "differs between the two" if differs else "is alike in the two"
    yield Finding(
        "note",
        f"Use of the entries{of([section])} {text}.",
        f"Jensen-Shannon divergence {value:.3f} bits of at most 1",
        "",
        "compare",
        section.part,
    )


def weights(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Size of compressed weights, where the error lies, what rotation did."""
    (section,) = sections[:1]
    bits, total = (section.number(key) for key in ("bits_per_weight", "total_bits_per_weight"))
    whole = "" if total is None else f", {total:.3f} in the whole model"
    layers = section.number("layers") or 0
    yield Finding(
        "note",
        f"{bits or 0:.3f} bits per weight in {layers:.0f} quantized layers{whole}.",
        "everything stored counts, read from the files",
        "",
        "weights",
    )
    yield from _errors(section)
    before, after = section.number("kurtosis_before"), section.number("kurtosis_after")
    if before is not None:
        yield _tails(before, after)


def _errors(section: Section) -> Iterator[Finding]:
    mean, worst = section.number("proxy_error"), section.get("worst_proxy_error")
    if not mean or worst is None or not isinstance(worst.value, float):
        return
    reason = f"proxy error {mean:.3g} on average, {worst.value:.3g} in {worst.note}"
    if worst.value > max(4 * mean, 0.05):
        text = f"One layer is much worse than the others: {worst.note}."
        yield Finding(
            "warn", text, reason, "give it more bits, or look at its calibration", "weights"
        )
    elif mean > 0.3:
        yield Finding(
            "warn",
            "The layers keep little of what they did.",
            reason,
            "more bits, rotation, or calibration on more text",
            "weights",
        )
    else:
        yield Finding("good", "The error is spread over the layers.", reason, "", "weights")


def _tails(before: float, after: float | None) -> Finding:
    """What the fourth moments say; 3 is that of a Gaussian."""
    if after is None:
        if before > 5:
            text = "Weights have heavy tails and were not rotated."
            return Finding(
                "warn",
                text,
                f"kurtosis {before:.2f}; 3 is Gaussian",
                "compress with rotation",
                "weights",
            )
        text = "Weights were not rotated and have no heavy tails."
        return Finding("good", text, f"kurtosis {before:.2f}; 3 is Gaussian", "", "weights")
    reason = f"kurtosis {before:.2f} before, {after:.2f} after rotation; 3 is Gaussian"
    if after > 4:
        action = "keep outliers apart, or fit the codebook to the weights"
        return Finding(
            "warn", "Weights have heavy tails after rotation too.", reason, action, "weights"
        )
    return Finding("good", "Weights look Gaussian where they are quantized.", reason, "", "weights")
