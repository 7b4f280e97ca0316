# What all .slurm files of this folder do. `train SCRIPT [ARGUMENTS]` checks the call, trains on as many processes as
# the job has tasks, and queues the job again if it was stopped by its time limit and got on since its start.

fail() {
    echo "cluster/job.sh: $1" >&2
    exit 2
}

check() {
    case "${1:-}" in
        "") fail "no training script given: sbatch cluster/one_gpu.slurm train_mnist.py" ;;
        -*) fail "$1 stands where the training script should: options of sbatch go before the .slurm file, those of the script behind the script" ;;
    esac
    [ -f "$1" ] || fail "no file $1 in $PWD: submit the job from the folder that holds the training scripts"
    for argument in "${@:2}"; do
        case "$argument" in
            --time | --time=* | --partition | --partition=* | --account | --account=* | --qos | --qos=* | --gres | --gres=* | \
                --mem | --mem=* | --nodes | --nodes=* | --ntasks* | --cpus-per-task* | --array | --array=* | -[Aacnpt] | -N)
                fail "$argument is an option of sbatch: write it before the .slurm file" ;;
        esac
    done
    [ -z "${VIRTUAL_ENV:-}" ] && [ -f .venv/bin/activate ] && . .venv/bin/activate
    command -v python > /dev/null || fail "no python found: activate your environment (source .venv/bin/activate), then submit again"
    python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' \
        || fail "$(command -v python) has no torch: activate the environment that has it, then submit again"
}

train() {
    check "$@"
    # Processes on one node meet there; others at the first node of the job.
    export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # A run that is stopped by a signal writes the signal's name here, if it got on since it began.
    export DDPM_STOPPED=${TMPDIR:-/tmp}/ddpm_stopped_$SLURM_JOB_ID
    rm -f "$DDPM_STOPPED"
    srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1 bash -c \
        'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec python "$@"' - "$@" --resume auto
    status=$?
    stopped=$(cat "$DDPM_STOPPED" 2> /dev/null)
    rm -f "$DDPM_STOPPED"
    # The last task of an array has the number of the whole array: that number alone would queue all tasks again.
    job=$SLURM_JOB_ID
    [ -n "${SLURM_ARRAY_JOB_ID:-}" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    if [ "$stopped" = SIGUSR1 ]; then
        scontrol requeue "$job" || echo "this job cannot be queued again here: submit it with the same command, and it goes on" >&2
    elif [ "$status" -eq 138 ]; then # USR1, but nothing was gained: the next job would end the same way
        echo "not queued again: the time limit came before this job got any further. Give it more time: sbatch --time=... (the" \
            "signal comes two minutes before the limit)" >&2
    elif [ "$status" -gt 128 ]; then
        echo "not queued again: a process was ended by signal $((status - 128)) (9 is often a lack of memory). To go on from" \
            "the last checkpoint: scontrol requeue $job, or submit the job again with the same command" >&2
    fi
    exit "$status"
}
