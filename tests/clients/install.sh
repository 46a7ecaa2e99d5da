#!/bin/sh
# Installs the clients that the tests beside this try, each group of pyproject.toml into an environment of its own under
# FOLDER, and those for Node. What is there is kept; what cannot be had is left out, and its tests say so.
#
#   install.sh FOLDER PYTHON [INDEX OF TORCH]
set -u
folder=$1 python=$2 torch_index=${3:-}
mkdir -p "$folder"

pip() { # ENVIRONMENT ARGUMENTS…
    environment=$1
    shift
    "$folder/$environment/bin/python" -m pip --disable-pip-version-check install -q "$@"
}

group() { # ENVIRONMENT GROUP
    [ "$folder/$1/.installed" -nt pyproject.toml ] && return
    echo "installing $2 into $folder/$1"
    "$python" -m venv "$folder/$1" && pip "$1" "pip>=25.1" && pip "$1" --group "$2" && touch "$folder/$1/.installed" ||
        echo "could not install $2" >&2
}

# Without the libraries for cards, as in the Makefile: a build that pip finds locally, else one for CPUs.
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
if [ ! -e "$folder/guidellm" ]; then
    "$python" -m venv "$folder/guidellm"
    pip guidellm --no-index --no-deps "$torch" 2>/dev/null ||
        { [ -n "$torch_index" ] && pip guidellm --no-deps --retries 1 --timeout 20 --index-url "$torch_index" "$torch"; }
fi

group python clients
group guidellm clients-guidellm
group aiperf clients-aiperf

if command -v npm >/dev/null && [ ! -e "$folder/node/node_modules/openai" ]; then
    echo "installing clients for Node into $folder/node"
    mkdir -p "$folder/node"
    npm install --silent --no-fund --no-audit --prefix "$folder/node" \
        openai@6 @grpc/grpc-js@1 @grpc/proto-loader@0.8 @bufbuild/buf@1 || echo "could not install clients for Node" >&2
fi
exit 0
