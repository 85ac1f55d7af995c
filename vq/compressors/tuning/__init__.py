"""Moving what is not codes towards the original model, while blocks are rounded and after the last one.

``blocks`` rounds blocks against the original: ``closed`` makes up for earlier errors before a layer is rounded,
``block`` trains what is still free after it. ``stage`` then tunes the whole model: ``model`` is its loop, ``loss`` its
distance to the original. ``gains`` are the row factors of packed layers, ``options`` the ``tuning`` key of a recipe.
"""
