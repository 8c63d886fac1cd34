"""The certificate that a server shows, replaced while connections live."""
