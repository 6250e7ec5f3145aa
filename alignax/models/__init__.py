"""The decoder, its weights in and out of the public formats, and what it says of a batch."""
