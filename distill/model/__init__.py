"""The student: audio to logits."""
