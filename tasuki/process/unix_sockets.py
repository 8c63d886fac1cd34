"""What every server and client on a unix socket must know."""

from typing import Final

# sun_path has 108 bytes, of which the last is null (unix(7)).
LONGEST_PATH_BYTES: Final = 107

# For gRPC clients of the kubelet and of device plugins.
CHANNEL_OPTIONS: Final = (
    # grpcio would send the socket's path as :authority, which Go's servers refuse (grpc/grpc#38142).
    ("grpc.default_authority", "localhost"),
    # A socket that was made anew under the same path is another server, and a shared connection would still back off
    # from the one that went away.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
