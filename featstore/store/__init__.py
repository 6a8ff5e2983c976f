"""What is kept: units of Zarr arrays, committed whole, and the proof that they are unchanged."""
