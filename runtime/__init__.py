"""Run what ``tokfilter export`` wrote, and measure it. Nothing here imports torch."""
