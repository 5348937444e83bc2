"""OpenAI's Batch API: files of requests, computed by the served models in the background.

The front door only reads and writes what lies on the shelf. A worker of its own finds there what is
to be done, does it as a job with a plan, units and commits, and puts the results back.
"""
