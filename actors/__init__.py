"""Ray actors that hold an engine."""
