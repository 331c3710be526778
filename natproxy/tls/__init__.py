"""TLS for the daemons and the client: files of certificates, contexts, texts of failures.

The client's blocking connections use the standard library's ``ssl``, those on a reactor pyOpenSSL;
files and texts are the same for both. Modules that need neither are imported when TLS is not used.
"""
