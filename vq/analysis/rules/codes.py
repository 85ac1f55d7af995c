"""Rules of the verdict on codes: how entries are used, in which order, what labels they tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vq.analysis.measures.usage import ENOUGH
from vq.analysis.model import Finding, Section, Severity
from vq.analysis.rules.words import REVIVE, of, parts, span
from vq.analysis.subject import Subject

SMALLER = (
    "a smaller codebook does the same: fold the unused entries away, or revive them and train on"
)
_FEW = 0.1  # repeats by chance from which few entries, not the order of codes, are the matter
MORE_TOKENS = f"give at least {ENOUGH:g} tokens for each entry before judging"


def usage(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Collapse, dead entries, too few tokens, health."""
    empty = [s for s in sections if not s.number("tokens")]
    if empty:
        yield Finding(
            "bad",
            f"There are no codes{of(empty)}.",
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
        yield _dead(dead)
    unjudged = [s for s in few if s not in collapsed]
    if unjudged:
        yield _unjudged(unjudged)
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
        f"perplexity {span(sections, 'perplexity_cs', '.3g')} (Chao-Shen) at N/K = "
        f"{span(sections, 'tokens_per_entry', '.2g')}; {span(sections, 'used', '.1%')} used, even use would show "
        f"{span(sections, 'ceiling', '.0%')}; the top 1 % take {span(sections, 'top_share', '.0%')} of the tokens"
    )
    if dead:
        reason += f"; {span(dead, 'dead', '.0%')} dead"
    severity: Severity = "bad" if severe else "warn"
    return Finding(
        severity,
        f"The codebook{of(sections)} has collapsed: {span(sections, 'entries', ',.0f')} entries are used as if there "
        f"were {span(sections, 'perplexity_cs', '.0f')}.",
        reason,
        REVIVE,
        "usage",
        parts(sections),
    )


def _dead(sections: Sequence[Section]) -> Finding:
    worst = max(s.number("dead") or 0 for s in sections)
    return Finding(
        "bad" if worst > 0.25 else "warn",
        f"{span(sections, 'dead', '.0%')} of the entries{of(sections)} are dead.",
        f"no token among N/K = {span(sections, 'tokens_per_entry', '.3g')} for each entry",
        SMALLER,
        "usage",
        parts(sections),
    )


def _unjudged(sections: Sequence[Section]) -> Finding:
    return Finding(
        "note",
        f"Too few tokens to judge unseen entries{of(sections)}.",
        f"N/K = {span(sections, 'tokens_per_entry', '.2g')}: even use would show "
        f"{span(sections, 'ceiling', '.0%')}, seen are {span(sections, 'used', '.0%')}",
        MORE_TOKENS,
        "usage",
        parts(sections),
    )


def _healthy(sections: Sequence[Section]) -> Finding:
    even = min(s.number("evenness") or 0 for s in sections)
    used, entries = span(sections, "used", ".1%"), span(sections, "entries", ",.0f")
    text = f"The entries{of(sections)} are in use: {used} of {entries}"
    if even > 0.9:
        text += ", nearly evenly"
    save = 1 - even
    action = (
        "" if save < 0.1 else f"entropy coding of the codes would save {save:.0%} of their bits"
    )
    return Finding(
        "good",
        text + ".",
        f"perplexity {span(sections, 'perplexity_cs', '.4g')} at N/K = {span(sections, 'tokens_per_entry', '.3g')}; "
        f"entropy is {span(sections, 'evenness', '.0%')} of log2 K",
        action,
        "usage",
        parts(sections),
    )


def sequence(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """Repetition, and what neighbours tell of each other."""
    stuck = [
        s
        for s in sections
        if (s.number("repeats") or 0) - (s.number("repeats_expected") or 0) > 0.4
        and (s.number("repeats_expected") or 0) < _FEW
    ]
    if stuck:
        yield Finding(
            "warn",
            f"Codes{of(stuck)} repeat the one before more often than not by chance.",
            f"{span(stuck, 'repeats', '.0%')} of the neighbours are equal, chance gives "
            f"{span(stuck, 'repeats_expected', '.1%')}; mean run {span(stuck, 'run_length', '.1f')}",
            "the hop is shorter than what changes: lengthen it, or code runs",
            "sequence",
            parts(stuck),
        )
    for s in sections:
        gain, base = s.number("neighbour_information"), s.number("block_entropy_3")
        if s not in stuck and gain is not None and base is not None and gain > 1.0:
            yield Finding(
                "note",
                f"A code{of([s])} tells much of the next one.",
                f"{gain:.2f} bits, after what shuffled codes show is taken off",
                "a model of pairs, or a predictor in front of the quantizer, would save about that much a code",
                "sequence",
                s.part,
            )


def labels(subject: Subject, sections: Sequence[Section]) -> Iterator[Finding]:
    """What the codes tell of labels."""
    (section,) = sections[:1]
    pnmi, purity = section.number("pnmi"), section.number("purity")
    if pnmi is not None and purity is not None:
        yield Finding(
            "note" if pnmi > 0.1 else "warn",
            f"The codes tell {f'{pnmi:.0%}' if pnmi > 0.01 else 'nothing'} of what the labels say.",
            f"purity {purity:.0%}, by chance {section.number('purity_chance') or 0:.0%}",
            "",
            "labels",
        )
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
