"""Downloads: resumed, retried, verified; and trees of files kept like the server's."""
