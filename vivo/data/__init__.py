"""Readers and stores: annotations, region features, batches. Knows nothing of the model."""
