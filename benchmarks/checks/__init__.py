"""What `gpu_check.py` tries on a new machine, one function per check."""
