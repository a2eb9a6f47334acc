#!/bin/sh
# remove.sh: a kernel setting has no owner, so there is nothing of portctl's to take out. The values stay as they are
# until the next boot; `sh load.sh` in a bundle that save.sh wrote brings older ones back.
exit 0
