"""Which runs are made, and where."""
