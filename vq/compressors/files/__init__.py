"""Files at the beginning of the pipeline, and those of an unfinished run.

``source`` opens the model, with ``gguf`` and ``ctranslate2`` converting what is no Hugging Face folder; ``tensorfile``
reads and writes safetensors, a tensor at a time; ``workfolder`` keeps the blocks that are finished.
"""
