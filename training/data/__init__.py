"""Cases and how they become batches: loaders, splits, augmentation, pairs that are drawn."""
