#!/bin/bash
# Start or resume the runs of study/readout.py, two processes, out of everybody's way.
# Stop:    kill -- -$(cat /work/cause/pid)      Pause / go on: kill -STOP / -CONT -- -$(cat pid)
cd /work/cause || exit 1
if [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then echo "running: $(cat pid)"; exit 0; fi
. /work/tmp/venv/bin/activate
export OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1
nohup setsid nice -n 19 bash -c 'echo $$ > pid; exec python -m study.readout' >> readout.log 2>&1 < /dev/null &
sleep 2; echo "started: $(cat pid)"
