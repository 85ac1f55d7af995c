"""Operations for GPUs, written in Triton; each module is imported when a tensor on a GPU first asks for it."""
