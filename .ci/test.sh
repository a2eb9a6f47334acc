#!/bin/sh
# The tests and, beside them, the virtual machine: each waits much, so that together they take little longer than the
# longer one. What the machine said is shown after the tests; if either fails, so does this.
# Arguments: the folder of the programs, how many tests at once, the machines.
set -u
bin=$1 workers=$2
shift 2

# Python is started a thousand times, mostly where nothing that it writes is kept: what is compiled now is found there.
"$bin/python" -m compileall -q portctl tests || exit 1

log=$(mktemp) || exit 1
"$bin/python" vagrant/trial.py "$@" >"$log" 2>&1 &
trial=$!
# A background job does not hear Ctrl-C.
trap 'kill "$trial" 2>/dev/null; wait "$trial"; rm -f "$log"; exit 130' INT TERM
PORTCTL_SYSTEM=required "$bin/pytest" -n "$workers" --dist loadgroup
tests=$?

kill -0 "$trial" 2>/dev/null && echo "the tests have ended; the virtual machine is still at work: $(grep '^== ' "$log" | tail -n 1)"
wait "$trial"
machine=$?
printf '\nmake vagrant\n'
cat "$log"
rm -f "$log"
[ "$tests" = 0 ] || echo "make test: the tests FAILED (exit status $tests)" >&2
[ "$machine" = 0 ] || echo "make test: the virtual machine FAILED (exit status $machine)" >&2
[ "$tests" = 0 ] && [ "$machine" = 0 ]
