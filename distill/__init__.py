"""distill: train speech-only students from a store of cached teacher outputs."""
