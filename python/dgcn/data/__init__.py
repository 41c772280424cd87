"""Data sets: the annotation format, pictures, augmentation, batches."""
