"""Inference sessions on exported models, and their measurement. Only ``torch_session`` imports torch."""
