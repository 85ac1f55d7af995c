"""What compression cost: ``evaluate`` gives perplexity and divergence on text, ``tasks`` accuracy on local tasks."""
