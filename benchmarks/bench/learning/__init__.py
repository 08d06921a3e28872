"""Personalizing: data, rivals, and studies of people, alphabets and domains."""
