"""Audio files to samples; samples to eGeMAPS low-level descriptors (LLDs)."""
