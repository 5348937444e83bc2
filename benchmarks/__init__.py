"""How fast the engine is, beside others and by itself. See README.md."""
