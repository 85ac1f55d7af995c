"""Measurements of codebooks, and the frame every result is reported in.

``pipeline`` runs them on a ``subject``, in this order: ``files`` and ``foreign`` open a path, ``measures`` measure it
with the estimates of ``statistics``, ``rules`` say what the numbers mean, and ``page`` shows all with ``plots`` that
``svg`` draws. ``model`` is what an analysis consists of, ``catalogue`` defines every measurement and
``catalogue_intervals`` its interval. Beside it, ``bench`` holds what ``vq bench`` measures, and ``environment`` what
every result carries of machine and versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vq._lazy import lazy_names

if TYPE_CHECKING:
    from vq.analysis.files.open import open_subject, opener
    from vq.analysis.model import Analysis, Section
    from vq.analysis.page.report import write_page
    from vq.analysis.page.terminal import summary
    from vq.analysis.pipeline import analyze
    from vq.analysis.subject import Subject

__all__ = [
    "Analysis",
    "Section",
    "Subject",
    "analyze",
    "open_subject",
    "opener",
    "summary",
    "write_page",
]

_HOMES = {
    "Analysis": "model",
    "Section": "model",
    "Subject": "subject",
    "analyze": "pipeline",
    "open_subject": "files.open",
    "opener": "files.open",
    "summary": "page.terminal",
    "write_page": "page.report",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()}
)
