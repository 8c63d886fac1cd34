"""Reading certificates as PEM."""

from cryptography import x509


def pem_certificates(text: bytes) -> list[x509.Certificate]:
    """At least one.

    Raises:
        ValueError: There is none, or one that cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(text)
    except x509.InvalidVersion as error:  # which is no ValueError
        raise ValueError(str(error)) from error
