"""What is measured of a subject; a section of the analysis each.

First the passes over data: ``stream`` reads codes once for many listeners, ``gather`` collects what the measurements
need, ``coded`` sends vectors through the codebook. Then of codes ``usage``, ``sequence`` and ``labels`` (with
``explicitness``); of tables ``geometry`` (with ``shape`` and ``cells``); of vectors ``rate`` and ``stages``; of runs
``training``; of models ``weights``; of two subjects ``compare``.
"""
