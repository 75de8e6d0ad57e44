#!/bin/sh
# Tell Snakemake whether the job $1 is running, or ended in success or failed; PBS keeps finished jobs for a while (-x).
job=$(qstat -x -f "$1") || { echo failed; exit; }
case $job in
*"job_state = F"*"Exit_status = 0"* | *"Exit_status = 0"*"job_state = F"*) echo success ;;
*"job_state = F"*) echo failed ;;
*) echo running ;;
esac
