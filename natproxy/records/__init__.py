"""Records of translations, for people and programs: members, times, the filter language, formats.

The packages that show or store translations share it: the control socket, the page, the journal and
the command line. It imports neither Twisted nor a database, since the command line starts with it.
"""
