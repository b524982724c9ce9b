"""The edge bundle: one tar file with an export, tokfilter and its native sources, for a device without torch."""
