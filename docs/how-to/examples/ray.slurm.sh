#!/bin/bash
# One run over a folder on four machines, which form a Ray cluster for as long as the job takes.
#SBATCH --job-name=restore
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=12:00:00
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes")
port=6379

srun --nodes=1 --ntasks=1 --overlap -w "$head" \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
sleep 15
for node in $(tail -n +2 <<< "$nodes"); do
    srun --nodes=1 --ntasks=1 --overlap -w "$node" \
        ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done
sleep 15

# Four cores for each worker. A job that was requeued goes on.
srun --nodes=1 --ntasks=1 --overlap -w "$head" env OMP_NUM_THREADS=4 \
    restore denoise /data/scans -r -o /data/clean --resume --cluster auto
