"""`gemmaray attention-mask`: what the tokens of a text see of each other.

`picture.py` is what there is to show, `text.py` shows it on a terminal and `page.py` in a browser.
"""
