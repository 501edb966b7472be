from typing_extensions import disjoint_base

@disjoint_base
class Links:
    connected: int
    lost_connections: int
