#!/usr/bin/env bash
# Training on Slurm's nodes, one torchrun on each; every flag of run-finetuning.py may follow.
#   sbatch --nodes 2 --gpus-per-node 8 scripts/cluster/slurm.sh --recipe full --hybrid_shard --fsdp
# From the repository, in an environment that has LEAP. The same line goes on after a time limit, a kill or a lost node,
# with fewer or more nodes too. Where the name of a node is loopback on itself, ranks need the name of the interface
# between nodes: GLOO_SOCKET_IFNAME=ib0 before sbatch. See docs/training.md.
#SBATCH --job-name=leap
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@300
set -euo pipefail
export NNODES=$SLURM_NNODES NUM_GPUS=${SLURM_GPUS_ON_NODE:?give --gpus-per-node}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # not that of another job on the node
# A task that fails ends those of the other nodes, which may not have noticed.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" \
    bash -c 'NODE_RANK=$SLURM_NODEID exec bash scripts/training/run-training.sh "$@"' leap "$@"
