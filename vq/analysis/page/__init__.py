"""The result for people: ``terminal`` writes at most 25 lines, ``report`` one self-contained HTML page.

The page is ``style``, the verdict, plots, pictures of a training run (``images``), what codes stand for (``atlas``),
and ``tables`` of every number.
"""
