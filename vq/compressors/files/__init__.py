"""What is on disk, at both ends of the pipeline.

First ``source`` opens the model, with ``gguf`` and ``ctranslate2`` converting what is no Hugging Face folder;
``tensorfile`` reads and writes safetensors, a tensor at a time. During a run ``workfolder`` keeps finished blocks. At
the end ``shelf`` stores the codebooks, ``checkpoint`` assembles and checks the folder, and ``size`` counts its bytes;
``older`` reads packed weights of earlier layouts.
"""
