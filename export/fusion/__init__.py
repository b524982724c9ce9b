"""Foreign graphs: find what chooses tokens, prove what it does by running it, put TokenSelect in its place."""
