"""What a store is built of, in which order, and what is there already."""
