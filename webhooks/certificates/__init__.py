"""The certificate that the webhooks serve with, issued and rotated here or taken from files."""
