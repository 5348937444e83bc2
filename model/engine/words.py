"""What a rank's process says to the leader: these words, and the error that ends it."""

LOADED = "loaded"
JOINED = "joined"
# Said every so often by a thread that no collective holds up.
BEAT = "beat"
BEAT_EVERY_S = 0.5
