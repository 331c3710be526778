"""Small programs that the benchmark runs as processes of their own.

Each one takes its numbers and directories on the command line and runs until it is killed.
None of them imports another, nor anything of natproxy: they are what it is held against.
"""
