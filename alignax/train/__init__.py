"""The mesh, the update, checkpoints, metrics and the loop that joins them."""
