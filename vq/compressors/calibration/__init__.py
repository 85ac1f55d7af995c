"""What the model sees of the user's data.

``samples`` turns texts (``texts``), sounds (``sounds``, ``speech``) or prepared arguments into windows, ``calibrate``
runs block after block over them (``settled`` spares what need not run again), ``hessian`` sums ``E[x xᵀ]`` of what
each layer is given, and ``whole`` serves models whose blocks are no chain.
"""
