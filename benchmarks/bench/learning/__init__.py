"""Personalizing and adapting: data, rivals, and studies of people and streams."""
