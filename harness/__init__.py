"""tunebench: evaluate fine-tuned language models and keep every answer in one history."""

__version__ = "0.1.0"
