"""Many methods trained on the same terms, measured alike, and told apart only where they differ."""
