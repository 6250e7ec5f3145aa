"""From text on disk to batches in rows: records, sources, tokens, the plan, the pipeline."""
