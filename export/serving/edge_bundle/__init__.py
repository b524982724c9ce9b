"""The kit for the edge: an export, what builds its engines, what measures them, in one file, without torch."""
