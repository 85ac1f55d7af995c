"""Image and audio tokenizers: encoder, quantizer, decoder; training, token files, evaluation."""
