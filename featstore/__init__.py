"""featstore: fine-tune the teachers once per fold, and keep what they know in a Zarr store."""
