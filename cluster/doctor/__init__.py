"""`gemmaray doctor`: what is wrong with a set-up, and how to mend it.

Each module looks at one part of it. Its checks take what was found as plain values and give
findings; what looks at the machine stands beside them and decides nothing.
"""
