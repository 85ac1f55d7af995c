"""Rules of the verdict on tables: where entries lie, what they do to vectors, what each stage adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vq.analysis.model import Finding, Section
from vq.analysis.rules.words import of, parts, span
from vq.analysis.subject import Subject


def geometry(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Broken rows, copies, unused directions, offsets."""
    broken = [s for s in sections if any("not finite" in note for note in s.notes)]
    same = [
        s
        for s in sections
        if (s.number("near_duplicates") or 0) > 0.02 or (s.number("duplicates") or 0) > 0.001
    ]
    flat = [s for s in sections if _flat(s)]
    narrow = [s for s in sections if (s.number("anisotropy") or 0) > 0.5]
    for found, say in (
        (broken, _broken),
        (same, _copies),
        (flat, _few_directions),
        (narrow, _one_way),
    ):
        if found:
            yield say(found)
    fine = [
        s
        for s in sections
        if s not in (*broken, *same, *flat, *narrow) and (s.number("entries") or 0) > 1
    ]
    if fine and len(fine) == len(sections):
        yield Finding(
            "good",
            f"The entries{of(fine)} are spread out: no copies, effective rank {span(fine, 'effective_rank', '.1f')} of "
            f"{span(fine, 'dim', '.0f')}.",
            f"median distance to the nearest is {span(fine, 'neighbour_ratio', '.2f')} of that of Gaussian points",
            "",
            "geometry",
            parts(fine),
        )


def _broken(broken: Sequence[Section]) -> Finding:
    return Finding(
        "bad",
        f"The table{of(broken)} holds rows that are not finite.",
        broken[0].notes[0],
        "the training diverged, or the table was never fitted: go back to an earlier checkpoint",
        "geometry",
        parts(broken),
    )


def _copies(same: Sequence[Section]) -> Finding:
    worst = max(max(s.number("near_duplicates") or 0, s.number("duplicates") or 0) for s in same)
    return Finding(
        "bad" if worst > 0.25 else "warn",
        f"Entries{of(same)} lie on one another.",
        f"{span(same, 'duplicates', '.1%')} are copies, {span(same, 'near_duplicates', '.1%')} closer to another "
        "than 1 % of the spread",
        "revive or drop the copies: they cost rate and are never told apart",
        "geometry",
        parts(same),
    )


def _few_directions(flat: Sequence[Section]) -> Finding:
    return Finding(
        "warn",
        f"The table{of(flat)} spans few of its directions.",
        f"effective rank {span(flat, 'effective_rank', '.1f')} of {span(flat, 'dim', '.0f')}",
        "look up in a space of about that many dimensions (a linear map in front), or warm the encoder up without "
        "the quantizer first",
        "geometry",
        parts(flat),
    )


def _one_way(narrow: Sequence[Section]) -> Finding:
    return Finding(
        "warn",
        f"The entries{of(narrow)} point one way.",
        f"mean cosine {span(narrow, 'anisotropy', '.2f')}",
        "take the mean off the features before they are quantized",
        "geometry",
        parts(narrow),
    )


def _flat(section: Section) -> bool:
    rank, dim, entries = (section.number(key) for key in ("effective_rank", "dim", "entries"))
    return (
        rank is not None and dim is not None and (entries or 0) > 2 * dim >= 8 and rank < 0.25 * dim
    )


def rate(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Whether the entries fit the data, and how far from Shannon they are."""
    (section,) = sections[:1]
    shift, spread = section.number("mean_shift"), section.number("spread_ratio")
    if shift is not None and spread is not None and (shift > 0.3 or not 0.5 < spread < 1.5):
        yield Finding(
            "bad",
            "The entries do not lie where the data lie.",
            f"means are {shift:.2f} spreads apart, the entries used spread {spread:.2f} times as far as the data",
            "fit the table to these vectors, or normalise them as those it was fitted to",
            "rate",
        )
    snr, gap, rate = (section.number(key) for key in ("snr", "gap_gaussian", "rate"))
    if snr is None or gap is None or rate is None:
        return
    over = section.number("gap_entropy")
    more = (
        ""
        if over is None
        else f", {over:.2f} dB at the entropy rate {section.number('entropy_rate') or 0:.3g}"
    )
    on = next((f" ({note})" for note in section.notes if "N(0, 1)" in note), "")
    yield Finding(
        "note" if gap < 6 else "warn",
        f"Signal to noise is {snr:.2f} dB at {rate:.3g} bits a dimension{on}.",
        f"{gap:.2f} dB above the bound of Gaussian vectors of this covariance{more}",
        ""
        if gap < 6
        else "fit the table to such vectors; in few dimensions more entries, in many dimensions more stages",
        "rate",
    )


def stages(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Stages that add little, codes that tell of each other."""
    (section,) = sections[:1]
    curve = next((s for s in section.series if s.key == "by_stage"), None)
    if curve is not None and "gain" in curve.columns:
        weak = [
            str(name)
            for name, gain in zip(curve.columns["stage"], curve.columns["gain"], strict=True)
            if isinstance(gain, float) and gain < 0.3
        ]
        if weak:
            yield Finding(
                "warn",
                f"{', '.join(weak)} add less than 0.3 dB each.",
                f"all stages together {section.number('db_per_bit') or 0:.2f} dB a bit, 6.02 is ideal",
                "drop them, or train the stages further with dropout of the last ones",
                "stages",
            )
    most = section.get("largest_information")
    if most is not None and isinstance(most.value, float) and most.value > 0.5:
        yield Finding(
            "warn",
            f"Two codes of a vector tell of each other: {most.note}.",
            f"{most.value:.2f} bits, chance taken off; mean of pairs {section.number('mutual_information') or 0:.2f}",
            "decorrelate them in training, or code the second given the first",
            "stages",
        )
    elif most is not None and isinstance(most.value, float):
        yield Finding(
            "good",
            "The codes of a vector tell little of each other.",
            f"at most {most.value:.2f} bits, {most.note}",
            "",
            "stages",
        )
