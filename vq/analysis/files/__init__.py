"""Opening what this library wrote, as a ``Subject``.

``open`` asks the openers in turn: ``tokens`` (shards), ``tokenizer`` and ``run`` (training; ``events`` reads
TensorBoard files), ``model`` (compressed folders; ``packed``, ``panels`` and ``sides`` read their layers by the written
format), ``codebook``, and last ``array``, which takes any numbers. ``tables`` gets code vectors out of codebooks and
of the stored state of quantizers.
"""
