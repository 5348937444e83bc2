"""The way of tokens from a replica to a front door: one TCP connection between each two processes.

Ray Serve would carry each token of each stream in a message of its own, at some milliseconds of CPU
time. Here what all streams of a front door gain in one step travels as one frame. Everything else
stays with Serve: a stream is a call of a replica's method, which is queued, counted, cancelled and
waited for as any other, and ends when the last token was sent.
"""
