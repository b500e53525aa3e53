"""The pipeline's containers, one component each: a signature and the call of ``stlm task``."""
