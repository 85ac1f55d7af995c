"""What the numbers mean: findings in plain words, with reasons and what to do, the gravest first.

A rule looks at the sections of one kind and gives findings. What several parts share becomes one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vq.analysis.model import SEVERITIES, Finding, Section, Severity
from vq.analysis.subject import Subject
from vq.analysis.usage import ENOUGH

Rule = Callable[[Subject, Sequence[Section]], Iterator[Finding]]

REVIVE = (
    "train with revival of unused entries, start the table by k-means on features of a warmed-up encoder, look up in few "
    "dimensions (8 to 16); or take a smaller codebook"
)
SMALLER = (
    "a smaller codebook does the same: fold the unused entries away, or revive them and train on"
)
MORE_TOKENS = f"give at least {ENOUGH:g} tokens for each entry before judging"


def judge(subject: Subject, sections: Sequence[Section]) -> tuple[Finding, ...]:
    """All findings, the gravest first; one that says so where nothing is wrong."""
    found: list[Finding] = []
    for key, rule in RULES.items():
        own = [section for section in sections if section.key == key]
        if own:
            found += rule(subject, own)
    if not any(f.severity in ("bad", "warn") for f in found) and not any(
        f.severity == "good" for f in found
    ):
        found.append(Finding("good", "Nothing that was measured looks wrong."))
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def parts(sections: Sequence[Section]) -> str:
    """Names of parts in a few words: "", "stage 3", "stages 0 to 4", "3 parts (a, b, c)"."""
    names = [section.part for section in sections if section.part]
    if len(names) < 2:
        return names[0] if names else ""
    words, numbers = zip(
        *((n.rpartition(" ")[0], n.rpartition(" ")[2]) for n in names), strict=True
    )
    if len(set(words)) == 1 and words[0] and all(n.isdigit() for n in numbers):
        whole = [int(n) for n in numbers]
        if whole == list(range(whole[0], whole[-1] + 1)):
            return f"{words[0]}s {whole[0]} to {whole[-1]}"
        return f"{words[0]}s {', '.join(numbers)}"
    return f"{len(names)} parts ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _of(sections: Sequence[Section]) -> str:
    named = parts(sections)
    return f" of {named}" if named else ""


def _span(sections: Sequence[Section], key: str, form: str) -> str:
    """Values of a measurement over sections: one, or from the least to the most."""
    values = [v for s in sections if (v := s.number(key)) is not None]
    if not values:
        return "?"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _usage(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    empty = [s for s in sections if not s.number("tokens")]
    if empty:
        yield Finding(
            "bad",
            f"There are no codes{_of(empty)}.",
            "every code is -1 (nothing)",
            "",
            "usage",
            parts(empty),
        )
    rest = [s for s in sections if s not in empty]
    few = [s for s in rest if (s.number("tokens_per_entry") or 0) < ENOUGH]
    collapsed = [s for s in rest if _collapsed(s)]
    dead = [s for s in rest if s not in collapsed and (s.number("dead") or 0) > 0.05]
    if collapsed:
        yield _collapse(collapsed)
    if dead:
        worst = max(s.number("dead") or 0 for s in dead)
        yield Finding(
            "bad" if worst > 0.25 else "warn",
            f"{_span(dead, 'dead', '.0%')} of the entries{_of(dead)} are dead.",
            f"no token among N/K = {_span(dead, 'tokens_per_entry', '.3g')} for each entry",
            SMALLER,
            "usage",
            parts(dead),
        )
    judged = [s for s in few if s not in collapsed]
    if judged:
        yield Finding(
            "note",
            f"Too few tokens to judge unseen entries{_of(judged)}.",
            f"N/K = {_span(judged, 'tokens_per_entry', '.2g')}: even use would show "
            f"{_span(judged, 'ceiling', '.0%')}, seen are {_span(judged, 'used', '.0%')}",
            MORE_TOKENS,
            "usage",
            parts(judged),
        )
    healthy = [s for s in rest if s not in collapsed and s not in dead and s not in few]
    if healthy:
        yield _healthy(healthy)


def _collapsed(section: Section) -> bool:
    """Whether far fewer entries are used than there are, by estimates that the number of tokens bears out."""
    k, n = section.number("entries"), section.number("tokens")
    perplexity = section.get("perplexity_cs")
    if not k or not n or perplexity is None or perplexity.high is None or n < 100:
        return False
    reach = min(k, n)  # no more entries can be seen than there are tokens
    return perplexity.high < 0.1 * reach and (section.number("coverage") or 0) > 0.9 and k >= 8


def _collapse(sections: Sequence[Section]) -> Finding:
    severe = any(
        (s.number("perplexity_cs") or 0) < 0.05 * (s.number("entries") or 1) for s in sections
    )
    dead = [s for s in sections if s.number("dead") is not None]
    reason = (
        f"perplexity {_span(sections, 'perplexity_cs', '.3g')} (Chao-Shen) at N/K = "
        f"{_span(sections, 'tokens_per_entry', '.2g')}; {_span(sections, 'used', '.1%')} used, even use would show "
        f"{_span(sections, 'ceiling', '.0%')}; the top 1 % take {_span(sections, 'top_share', '.0%')} of the tokens"
    )
    if dead:
        reason += f"; {_span(dead, 'dead', '.0%')} dead"
    severity: Severity = "bad" if severe else "warn"
    return Finding(
        severity,
        f"The codebook{_of(sections)} has collapsed: {_span(sections, 'entries', ',.0f')} entries are used as if there "
        f"were {_span(sections, 'perplexity_cs', '.0f')}.",
        reason,
        REVIVE,
        "usage",
        parts(sections),
    )


def _healthy(sections: Sequence[Section]) -> Finding:
    even = min(s.number("evenness") or 0 for s in sections)
    text = f"The entries{_of(sections)} are in use: {_span(sections, 'used', '.1%')} of {_span(sections, 'entries', ',.0f')}"
    if even > 0.9:
        text += ", nearly evenly"
    save = 1 - even
    action = (
        "" if save < 0.1 else f"entropy coding of the codes would save {save:.0%} of their bits"
    )
    return Finding(
        "good",
        text + ".",
        f"perplexity {_span(sections, 'perplexity_cs', '.4g')} at N/K = {_span(sections, 'tokens_per_entry', '.3g')}; "
        f"entropy is {_span(sections, 'evenness', '.0%')} of log2 K",
        action,
        "usage",
        parts(sections),
    )


def _sequence(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    stuck = [
        s
        for s in sections
        if (s.number("repeats") or 0) - (s.number("repeats_expected") or 0) > 0.4
    ]
    if stuck:
        yield Finding(
            "warn",
            f"Codes{_of(stuck)} repeat the one before more often than not by chance.",
            f"{_span(stuck, 'repeats', '.0%')} of the neighbours are equal, chance gives "
            f"{_span(stuck, 'repeats_expected', '.1%')}; mean run {_span(stuck, 'run_length', '.1f')}",
            "the hop is shorter than what changes: lengthen it, or code runs",
            "sequence",
            parts(stuck),
        )
    for s in sections:
        gain, base = s.number("neighbour_information"), s.number("block_entropy_3")
        if s not in stuck and gain is not None and base is not None and gain > 1.0:
            yield Finding(
                "note",
                f"A code{_of([s])} tells much of the next one.",
                f"{gain:.2f} bits, after what shuffled codes show is taken off",
                "a model of pairs, or a predictor in front of the quantizer, would save about that much a code",
                "sequence",
                s.part,
            )


def _geometry(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    broken = [s for s in sections if any("not finite" in note for note in s.notes)]
    if broken:
        yield Finding(
            "bad", f"The table{_of(broken)} holds rows that are not finite.", broken[0].notes[0],
            "the training diverged, or the table was never fitted: go back to an earlier checkpoint", "geometry", parts(broken),
        )  # fmt: skip
    same = [
        s
        for s in sections
        if (s.number("near_duplicates") or 0) > 0.02 or (s.number("duplicates") or 0) > 0.001
    ]
    if same:
        worst = max(
            max(s.number("near_duplicates") or 0, s.number("duplicates") or 0) for s in same
        )
        yield Finding(
            "bad" if worst > 0.25 else "warn",
            f"Entries{_of(same)} lie on one another.",
            f"{_span(same, 'duplicates', '.1%')} are copies, {_span(same, 'near_duplicates', '.1%')} closer to another than 1 % of "
            "the spread",
            "revive or drop the copies: they cost rate and are never told apart",
            "geometry",
            parts(same),
        )
    flat = [s for s in sections if _flat(s)]
    if flat:
        yield Finding(
            "warn",
            f"The table{_of(flat)} spans few of its directions.",
            f"effective rank {_span(flat, 'effective_rank', '.1f')} of {_span(flat, 'dim', '.0f')}",
            "look up in a space of about that many dimensions (a linear map in front), or warm the encoder up without the "
            "quantizer first",
            "geometry",
            parts(flat),
        )
    narrow = [s for s in sections if (s.number("anisotropy") or 0) > 0.5]
    if narrow:
        yield Finding(
            "warn",
            f"The entries{_of(narrow)} point one way.",
            f"mean cosine {_span(narrow, 'anisotropy', '.2f')}",
            "take the mean off the features before they are quantized",
            "geometry",
            parts(narrow),
        )
    fine = [
        s
        for s in sections
        if s not in (*broken, *same, *flat, *narrow) and (s.number("entries") or 0) > 1
    ]
    if fine and len(fine) == len(sections):
        yield Finding(
            "good",
            f"The entries{_of(fine)} are spread out: no copies, effective rank {_span(fine, 'effective_rank', '.1f')} of "
            f"{_span(fine, 'dim', '.0f')}.",
            f"median distance to the nearest is {_span(fine, 'neighbour_ratio', '.2f')} of that of Gaussian points",
            "",
            "geometry",
            parts(fine),
        )


def _flat(section: Section) -> bool:
    rank, dim, entries = (section.number(key) for key in ("effective_rank", "dim", "entries"))
    return (
        rank is not None and dim is not None and (entries or 0) > 2 * dim >= 8 and rank < 0.25 * dim
    )


def _rate(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    (section,) = sections[:1]
    shift, spread = section.number("mean_shift"), section.number("spread_ratio")
    if shift is not None and spread is not None and (shift > 0.3 or not 0.5 < spread < 1.5):
        yield Finding(
            "bad", "The entries do not lie where the data lie.",
            f"means are {shift:.2f} spreads apart, the entries used spread {spread:.2f} times as far as the data",
            "fit the table to these vectors, or normalise them as those it was fitted to", "rate",
        )  # fmt: skip
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


def _stages(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
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
                "warn", f"{', '.join(weak)} add less than 0.3 dB each.",
                f"all stages together {section.number('db_per_bit') or 0:.2f} dB a bit, 6.02 is ideal",
                "drop them, or train the stages further with dropout of the last ones", "stages",
            )  # fmt: skip
    most = section.get("largest_information")
    if most is not None and isinstance(most.value, float) and most.value > 0.5:
        yield Finding(
            "warn", f"Two codes of a vector tell of each other: {most.note}.",
            f"{most.value:.2f} bits (mean of all pairs {section.number('mutual_information') or 0:.2f}), chance taken off",
            "decorrelate them in training, or code the second given the first", "stages",
        )  # fmt: skip
    elif most is not None and isinstance(most.value, float):
        yield Finding(
            "good",
            "The codes of a vector tell little of each other.",
            f"at most {most.value:.2f} bits, {most.note}",
            "",
            "stages",
        )


def _training(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    (section,) = sections[:1]
    use, trend = section.number("utilization"), section.number("utilization_trend") or 0.0
    if use is not None and use < 0.2:
        yield Finding(
            "bad", f"At the end of training {use:.0%} of the entries were in use.", (section.get("utilization") or section.measurements[0]).note,
            REVIVE, "training",
        )  # fmt: skip
    elif use is not None and trend < -0.1:
        yield Finding(
            "warn", f"Use of the entries falls: by {-trend:.0%} since early in training.", f"{use:.0%} at the last report",
            REVIVE, "training",
        )  # fmt: skip
    elif use is not None:
        yield Finding(
            "good",
            f"{use:.0%} of the entries were in use at the end of training.",
            f"change over the run {trend:+.0%}",
            "",
            "training",
        )
    churn = section.number("churn")
    if churn is not None and churn > 0.3:
        yield Finding(
            "warn", f"The table still moves: {churn:.0%} of vectors changed their entry between the last checkpoints.",
            f"drift {section.number('drift') or 0:.2g} of the table's norm", "train on, or lower the learning rate towards the end", "training",
        )  # fmt: skip
    skipped = section.number("skipped")
    if skipped:
        yield Finding(
            "warn",
            f"{skipped:.0f} steps were skipped.",
            "values that were not finite",
            "lower the learning rate",
            "training",
        )


def _labels(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    (section,) = sections[:1]
    pnmi, purity = section.number("pnmi"), section.number("purity")
    if pnmi is not None and purity is not None:
        yield Finding(
            "note" if pnmi > 0.1 else "warn",
            f"The codes tell {max(pnmi, 0):.0%} of the labels' information." if pnmi > 0.01 else "The codes tell nothing of the labels.",
            f"purity {purity:.0%}, by chance {section.number('purity_chance') or 0:.0%}", "", "labels",
        )  # fmt: skip
    modularity, compactness = section.number("modularity"), section.number("compactness")
    if modularity is not None and compactness is not None:
        explicit = section.number("explicitness")
        more = "" if explicit is None else f", explicitness {explicit:.2f}"
        yield Finding(
            "note",
            f"Modularity {modularity:.2f}, compactness {compactness:.2f}{more}.",
            "1 is best",
            "",
            "labels",
        )


def _compare(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    for s in sections:
        cosine, agreement, snr = (
            s.number(key) for key in ("matched_cosine", "agreement", "snr_change")
        )
        if cosine is not None:
            alike = (
                "are nearly the same"
                if cosine > 0.95
                else "differ"
                if cosine < 0.5
                else "are related"
            )
            yield Finding(
                "note",
                f"The two tables{_of([s])} {alike}.",
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
        if snr is not None:
            word = "more" if snr > 0 else "less"
            yield Finding("note", f"The second has {abs(snr):.2f} dB {word} signal to noise at {s.number('rate_change') or 0:+.3g} bits a dimension.", "on the same vectors", "", "compare")  # fmt: skip


def _weights(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    (section,) = sections[:1]
    bits, total = section.number("bits_per_weight"), section.number("total_bits_per_weight")
    yield Finding(
        "note", f"{bits or 0:.3f} bits per weight in {section.number('layers') or 0:.0f} quantized layers"
        + (f", {total:.3f} in the whole model." if total else "."), "counted from the files", "", "weights",
    )  # fmt: skip
    mean, worst = section.number("proxy_error"), section.get("worst_proxy_error")
    if mean and worst is not None and isinstance(worst.value, float):
        if worst.value > max(4 * mean, 0.3):
            yield Finding(
                "warn", f"One layer is much worse than the others: {worst.note}.", f"proxy error {worst.value:.3g}, mean {mean:.3g}",
                "give it more bits, or look at its calibration", "weights",
            )  # fmt: skip
        elif worst.value < 0.3:
            yield Finding(
                "good",
                "The error is spread over the layers.",
                f"proxy error {mean:.3g}, at most {worst.value:.3g} ({worst.note})",
                "",
                "weights",
            )
        else:
            yield Finding(
                "warn",
                f"Errors are large: {worst.note} keeps little of its output.",
                f"proxy error {worst.value:.3g}, mean {mean:.3g}",
                "more bits, rotation, or calibration on more text",
                "weights",
            )
    before, after = section.number("kurtosis_before"), section.number("kurtosis_after")
    if after is not None and after > 4:
        yield Finding(
            "warn",
            "Weights have heavy tails after rotation too.",
            f"kurtosis {before or 0:.2f} before, {after:.2f} after; 3 is Gaussian",
            "keep outliers apart, or fit the codebook to the weights",
            "weights",
        )
    elif after is None and before is not None and before > 5:
        yield Finding(
            "warn",
            "Weights have heavy tails and were not rotated.",
            f"kurtosis {before:.2f}; 3 is Gaussian",
            "compress with rotation",
            "weights",
        )
    elif after is not None and before is not None:
        yield Finding(
            "good",
            "Weights look Gaussian where they are quantized.",
            f"kurtosis {before:.2f} before, {after:.2f} after rotation; 3 is Gaussian",
            "",
            "weights",
        )


RULES: dict[str, Rule] = {
    "usage": _usage,
    "geometry": _geometry,
    "rate": _rate,
    "stages": _stages,
    "weights": _weights,
    "training": _training,
    "labels": _labels,
    "sequence": _sequence,
    "compare": _compare,
}
