"""Downloads that are resumed, retried and verified, and local mirrors of remote directories."""
