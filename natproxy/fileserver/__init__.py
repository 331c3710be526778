"""The file server: the protocol's verbs, answered from a storage."""
