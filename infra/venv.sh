#!/bin/sh
# Makes the virtual environment:  sh infra/venv.sh DIR [EXTRA]     (EXTRA: dev, bench, or both with a comma)
#   PYTHON       the interpreter to use (default python3; 3.11 to 3.13)
#   TORCH        the torch to install, as pip writes it (default: chosen below)
#   TORCH_INDEX  one more package index to look for torch in, for example the PyTorch project's index of CPU wheels
set -eu
dir=$1
extra=${2:-}
python=${PYTHON:-python3}
version=2.13.0

"$python" - <<'CHECK' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("crossloom needs Python 3.11 to 3.13, this is %d.%d: name another with `make PYTHON=python3.12 ...`." % sys.version_info[:2])
CHECK

if [ -z "${TORCH:-}" ]; then
  # The default wheel for Linux on x86-64 brings gigabytes of CUDA; without a GPU the CPU build is meant.
  if [ "$(uname -sm)" = "Linux x86_64" ] && ! nvidia-smi -L >/dev/null 2>&1; then
    TORCH="torch==$version+cpu"
  else
    TORCH="torch==$version"
  fi
fi

echo "crossloom: making the environment in $dir (a few minutes the first time)"
[ -x "$dir/bin/python" ] || "$python" -m venv "$dir"
if ! "$dir/bin/python" -m pip install --quiet --disable-pip-version-check ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt "$TORCH"; then
  echo "crossloom: $TORCH is not in the package indexes that pip looks into. Either add TORCH_INDEX=URL with the index of CPU wheels" \
    "that PyTorch's install page names for your system, or take the default build with TORCH=torch==$version (with CUDA: gigabytes)." >&2
  exit 1
fi
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
