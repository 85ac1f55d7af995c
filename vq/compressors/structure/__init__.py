"""How a model is built, seen without its weights.

``stacks`` finds the stacks of repeated blocks, ``surgery`` and ``experts`` make every matrix of a block a linear layer
(and put packed layers in its place later), ``naming`` maps names in the model to names on disk, and ``skeleton`` holds
the result, filled and emptied block by block. A ``stand`` takes a block's place while others are looked at.
"""
