"""Pretraining from scratch."""
