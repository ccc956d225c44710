"""Images: datasets, forget and retain splits, batches."""
