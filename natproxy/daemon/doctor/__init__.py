"""What limits a host and its daemons, and the remedy: the checks of ``natproxy doctor``.

A check is a function that gets its sources as arguments, such as the path of a file below
``/proc``, and returns `Finding` objects. None of them changes anything.
"""
