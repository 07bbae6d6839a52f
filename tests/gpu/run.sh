#!/usr/bin/env bash
# Unpack the kit that lies in DIR, make an environment beside the machine's own torch, run the measurements.
#   bash run.sh DIR OUT [words of on_device.py …]
set -euo pipefail
dir=$1 out=$2
shift 2
cd "$dir"
for file in kit.tar.xz wheels.tar; do [ ! -f "$file" ] || tar -xf "$file"; done
own=$(python3 -c 'import site; print(site.getsitepackages()[0])')
python3 -m venv --without-pip kit/venv
site=$(kit/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" kit/wheels/*.whl
# The machine's torch, numpy and CUDA come after what the kit brings.
echo "$own" > "$site/zz_machine.pth"
for lib in "$own"/nvidia/*/lib; do [ ! -d "$lib" ] || LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$lib"; done
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
kit/venv/bin/python kit/on_device.py kit --out "$out/gpu-report.json" "$@"
