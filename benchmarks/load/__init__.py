"""The clients. They run in processes of their own and see no more of a body than its length."""
