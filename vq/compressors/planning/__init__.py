"""Which codebook each matrix gets under a budget; the stage before the blocks.

``stage`` runs it: ``sensitivity`` measures what noise in each matrix costs, ``plan`` forecasts size and quality of
every choice, and ``knapsack`` picks the best that fits.
"""
