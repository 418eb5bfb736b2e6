"""The command line, `reproduce.py`: what is asked for, in which order it is trained, and what is told at the terminal."""
