"""Estimates and their errors, which the measurements are made of; nothing here knows of codebooks.

``types`` counts what may be too much to list, ``estimators`` turn counts into entropy and richness, ``information``
into mutual information, ``intervals`` gives 95 % intervals of means and ratios, and ``assignment`` pairs two sets.
"""
