#!/bin/sh
# Installs the wheel (or source folder) $1 with the extras $2 into this Python, as any user may.
# WHEELHOUSE=DIR installs from that folder alone, without a network. KEEP="torch vllm ..." names
# what is there already and must not be replaced.
set -eu
source=${1:?wheel or source folder}
extras=${2:-}
python=${PYTHON:-python3}
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
for name in ${KEEP:-}; do
  "$python" -m pip freeze --disable-pip-version-check | grep -iE "^$name(==| @)" >>"$constraints"
done
set -- --no-cache-dir --disable-pip-version-check --constraint "$constraints"
if [ -n "${WHEELHOUSE:-}" ]; then
  set -- "$@" --no-index --find-links "$WHEELHOUSE"
fi
case $source in
  *.whl) ;;
  *) [ -f "$source/setup.py" ] || { echo "no wheel and no source folder: $source" >&2; exit 2; } ;;
esac
exec "$python" -m pip install "$@" "${source}${extras:+[$extras]}"
