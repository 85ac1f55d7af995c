"""What the model sees of the user's data.

``samples`` turns texts (``texts``), sounds (``speech``) or prepared arguments into windows, ``calibrate`` runs block
after block over them, ``hessian`` sums ``E[x xᵀ]`` of what each layer is given, and ``whole`` serves models whose
blocks are no chain.
"""
