"""`gemmaray chat`: a conversation in a terminal, or by lines through a pipe.

`session.py` takes the turns. What it stands on: `reading.py` and `screen.py`, where text comes from
and goes to; `conversation.py`, what was said; `slash.py` and `settings.py`, what can be changed;
`answering.py`, who answers, which is an engine here (`local.py`) or an endpoint (`remote.py`).
"""
