"""The engines that ours is held against, how each is started, and how they are installed."""
