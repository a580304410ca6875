"""What an autoscaler tells Ray."""

from __future__ import annotations


def report_groups(address: str, **nodes: int) -> None:
    """Say to how many nodes of each kind, with a CPU each, the cluster may grow; a negative count sets no limit.

    The autoscalers of managed clusters tell this, and Ray's own does not.
    """
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    groups = [
        autoscaler_pb2.NodeGroupConfig(name=name, resources={"CPU": 1}, max_count=count)
        for name, count in nodes.items()
    ]
    cluster = autoscaler_pb2.ClusterConfig(node_group_configs=groups)
    GcsClient(address=address).report_cluster_config(cluster.SerializeToString())
