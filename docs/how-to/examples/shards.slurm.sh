#!/bin/bash
# A job for each shard of a folder. `--resume` lets a job that was requeued go on.
#SBATCH --job-name=restore
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun restore denoise /data/scans -r -o /data/clean --resume \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
