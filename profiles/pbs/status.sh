#!/bin/sh
# Print the state of job $1 for Snakemake: running, success or failed. `qstat -x` also knows jobs that ended recently.
job=$(qstat -x -f "$1") || { echo failed; exit; }
case $job in
*"job_state = F"*"Exit_status = 0"* | *"Exit_status = 0"*"job_state = F"*) echo success ;;
*"job_state = F"*) echo failed ;;
*) echo running ;;
esac
