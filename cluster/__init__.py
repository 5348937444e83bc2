"""Where it runs: the command line, and the Ray that jobs run on."""
