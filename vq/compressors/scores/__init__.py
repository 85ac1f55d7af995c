"""What compression cost: ``evaluate`` gives perplexity and divergence on text.

``tasks`` gives accuracy on local tasks, ``speech`` the loss and the word errors of speech models.
"""
