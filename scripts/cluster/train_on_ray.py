"""Train on several nodes of a Ray cluster: one torchrun on each, in a placement group.

    python scripts/cluster/train_on_ray.py --num_nodes 2 --num_gpus 8 -- --recipe full --fsdp

From outside of the cluster, with `ray job submit --address http://HEAD:8265 --` before it and the script's whole path.
What stands behind the second -- are run-finetuning.py's flags. LEAP lies at one path on all nodes, shared or copied.
Ctrl-C, SIGTERM and `ray job stop` end it with a checkpoint, for which the ranks have --grace seconds. The same command
goes on after that and after a lost node, with fewer or more nodes or GPUs too.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from leap.cli import Parser, count, run, some_seconds
from leap.jobs.ray_cluster import WAIT
from leap.launch import TO_SAVE


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--num_nodes", type=count, required=True, help="nodes that train together")
    parser.add_argument("--num_gpus", type=count, required=True, help="GPUs, and so ranks, on each of them")
    parser.add_argument("--ray_address", default="auto", help="of the cluster")
    parser.add_argument("--wait", type=some_seconds, default=WAIT, help="seconds until so many GPUs must be free")
    parser.add_argument("--on_cpus", action="store_true", help="ranks on CPUs, --num_gpus of them a node")
    parser.add_argument("--grace", type=some_seconds, default=TO_SAVE, help="seconds to save a checkpoint at the end")
    parser.add_argument("flags", nargs="*", help="behind --: those of run-finetuning.py")
    arguments = parser.parse_args()

    from leap.jobs.ray_torchrun import train_on_nodes

    nodes, gpus, flags = arguments.num_nodes, arguments.num_gpus, arguments.flags
    how = arguments.on_cpus, arguments.grace
    return train_on_nodes(arguments.ray_address, nodes, gpus, arguments.wait, flags, *how)


if __name__ == "__main__":
    run(main)
