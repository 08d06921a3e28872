"""Baselines that a buyer would ask for: one network for all domains, a network per domain, personal logits layers."""
