"""What a run learns from: a fold's targets, and batches of audio."""
