"""The worker and the trainer, and the pipes that connect them to the daemon."""
