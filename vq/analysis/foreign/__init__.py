"""Opening what other libraries wrote, as a ``Subject``; nothing in a file is executed.

``files`` reads tensors by name, ``keys`` knows the names each library uses, ``state`` opens codebooks in state dicts,
and ``weights`` compressed layers of AQLM and VPTQ (``vptq`` decodes one).
"""
