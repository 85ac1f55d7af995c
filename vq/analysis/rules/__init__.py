"""What the numbers mean: ``verdict`` asks the rules on ``codes``, ``tables`` and the ``other`` sections.

``words`` are shared by the findings, and ``conditions`` judge a number for programs (``--fail-if``).
"""
