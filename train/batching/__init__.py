"""Batches of training samples as functions of the step: rows, augmentation, images decoded ahead."""
