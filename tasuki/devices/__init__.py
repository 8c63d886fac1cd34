"""The vocabulary of accelerators, which every service speaks; it imports nothing of ours."""
