"""Floor 1: from crops to embeddings by self-supervised learning; the only floor that imports torch."""
