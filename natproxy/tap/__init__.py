"""The ``twistd`` plugins' options, and the services made of them.

What an operator writes on the command line is read and checked here, and nowhere
else; nothing is listened on before the service starts.
"""
