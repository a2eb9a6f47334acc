#!/bin/sh
# The main job, for real: a policy, its plan, the rules applied in a throwaway network namespace, the policy's tests
# by real packets, and what verify says. Nothing of it touches this machine's own network.
set -eu
portctl=$1
policy=${2:-policies/web.yaml}

heading() { printf '\n\033[1m%s\033[0m\n\n' "$*"; }

heading "The policy: $policy"
grep -v '^ *#' "$policy" | grep -v '^$'
heading "portctl check $policy"
"$portctl" check "$policy"
heading "portctl apply $policy --sandbox --with-listeners --yes"
"$portctl" apply "$policy" --sandbox --with-listeners --yes
