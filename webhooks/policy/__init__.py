"""The operator's one file that says what admission does."""
