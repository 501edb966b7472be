"""``dynafast serve``: gathers the settings and hands them to the server, which runs until told to stop."""

import os
from pathlib import Path

import click

from dynafast.config import DEFAULT_ADDRESS, DURABILITIES, SOCKETS, ClusterConfig, load


@click.command()
@click.option("--data", metavar="DIR", help="The node's folder; made when it is not there. Required.")
@click.option("--listen", metavar="HOST:PORT", help=f"Where to listen; port 0: any. Default {DEFAULT_ADDRESS}.")
@click.option("--resp", metavar="HOST:PORT", help="Serve redis clients there too; port 0: any. Default: nowhere.")
@click.option(
    "--workers",
    metavar="N|auto",
    help="Run N nodes, in DIR/0, DIR/1, ... and on ports one after the other; auto: one per processor.",
)
@click.option("--join", metavar="HOST:PORT", multiple=True, help="A node of the cluster to enter; repeatable.")
@click.option("--replace", metavar="NAME", help="With --join: take the name and place of that node, which is dead.")
@click.option("--name", metavar="NAME", help="Default: the machine's name and the port.")
@click.option("--weight", metavar="INTEGER", help="Share of the data relative to other nodes. Default 1.")
@click.option("--zone", metavar="NAME", help="Replicas are spread over zones. Default 'default'.")
@click.option("--host", metavar="NAME", help="Nodes of one host count as one replica. Default: the node's name.")
@click.option("--advertise", metavar="HOST:PORT", help="What others connect to. Default: as --listen.")
@click.option("--durability", metavar="|".join(DURABILITIES), help="When a write counts as kept. Default group.")
@click.option("--cache", metavar="MIB", help="Memory for the records that are read most. Default 64.")
@click.option("--sockets", metavar="|".join(SOCKETS), help="What moves bytes: reactor is Linux alone. Default auto.")
@click.option(
    "--partitions",
    metavar="Q",
    help=f"Of a new cluster: partitions, a power of two. Default {ClusterConfig().partitions}.",
)
@click.option(
    "--replicas", metavar="N", help=f"Of a new cluster: replicas per key. Default {ClusterConfig().replicas}."
)
@click.option("--r", metavar="R", help="Of a new cluster: replicas a get needs. Default: majority.")
@click.option("--w", metavar="W", help="Of a new cluster: replicas a put needs. Default: majority.")
@click.option("--config", metavar="FILE.toml", type=click.Path(path_type=Path), help="Settings from a file.")
def serve(*, config: Path | None, **flags: str | tuple[str, ...] | None) -> None:
    """Run a node, or with --workers several, until SIGTERM or Ctrl-C.

    On a new folder it creates a cluster, or with --join enters one. The folder remembers, so a restart needs
    neither. A setting comes from the first of: flag, DYNAFAST_NAME in the environment, --config, default.
    """
    settings = load(flags, environ=os.environ, file=config)
    if settings.node.workers is not None:
        from dynafast.net.workers import supervise  # here: --help and a bad setting do not wait for trio

        supervise(settings)
        return
    from dynafast.net.roster import refuse_workers_folder
    from dynafast.net.server import run  # here: nor for RocksDB

    refuse_workers_folder(settings.node.data)
    run(settings)
