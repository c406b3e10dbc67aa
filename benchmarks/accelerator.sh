#!/bin/bash
# Prints how to run `python -m benchmarks.accelerator` on a machine without a network, which has Python
# 3.12, JAX for its GPU, Flax, Optax, Orbax, tensorstore, jaxtyping, rich, httpx and PyTorch, as images
# for deep learning do. The other libraries travel as wheels, 20 MB.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

# What eo_jax imports besides, and what those import themselves.
libraries=(array-record blosc2 google-crc32c grain ml-collections ndindex numcodecs numexpr portpicker)

# The version of a library that constraints.txt has for Python 3.12, as NAME==VERSION.
pinned() {
    grep "^$1==" constraints.txt | grep -v 'python_version < ' | sed 's/;.*//'
}

platforms=""
for glibc in 2_28 2_27 2_24 2_17; do
    platforms+=" --platform manylinux_${glibc}_x86_64"
done
wheels=""
for library in "${libraries[@]}"; do
    wheels+=" $(pinned "$library")"
done

cat <<END
# 1. Where there is a network, in the root of the repository (pip takes no other version of glibc than
#    those named; add a --platform if it finds no wheel):
python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
    $platforms --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \\
    --dest wheels$wheels

# 2. Copy the repository, with wheels/, to the machine.

# 3. There, in the root of the repository:
python3 -m pip install --no-index --no-deps --no-compile --target site wheels/*.whl
PYTHONPATH=site python3 -m benchmarks.accelerator --json h200.json

# The file is written after every row. The same command goes on where the last one ended; --help lists
# the rows, and --only ROW ... measures some of them.
END
