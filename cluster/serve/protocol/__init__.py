"""What requests and responses look like: OpenAI's shapes, and ours in the same manner."""
