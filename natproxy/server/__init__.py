"""What the clients' connections of both daemons have in common."""
