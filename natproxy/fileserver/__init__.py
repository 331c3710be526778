"""The file server: serves the files of a storage by the protocol."""
