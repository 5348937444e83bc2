"""Online serving: an HTTP front that speaks OpenAI's API, on Ray Serve."""
