"""What every room uses: errors, settings, files, console, scores, training. Imports nothing."""
