"""Recordings of sounds: files, their log-mel spectrograms, and windows of those."""
