#!/usr/bin/env bash
# Makes venv/ beside this file, installs requirements.txt into it whenever that file has changed
# since the last complete installation, and activates it. Source it, from any folder:
#   . ./activate.sh
# Only syntax that bash 3.2 (macOS), zsh and dash share; `command` passes over the user's aliases.

# $1: path of this file, empty when it was not sourced. Returns 0 once the environment is active, else 1 after one line on stderr.
activate_project() {
    unset -f activate_project  # so that nothing but the environment stays in the user's shell
    if [ -n "${ZSH_VERSION:-}" ]; then emulate -L sh; fi
    local root venv python candidate found
    if [ -z "$1" ]; then
        echo "activate.sh: source it, so that it can change this shell: . ./activate.sh" >&2
        return 1
    fi
    root="$(CDPATH='' command cd -- "$(dirname -- "$1")" && pwd -P)" || return 1
    venv="$root/venv"

    case "$(uname -s 2>/dev/null)" in MINGW* | MSYS* | CYGWIN*)
        echo "activate.sh: on Windows run activate.bat in cmd or activate.ps1 in PowerShell" >&2
        return 1 ;;
    esac
    if [ ! -f "$root/requirements.txt" ]; then
        echo "activate.sh: requirements.txt is missing in $root: get the whole project" >&2
        return 1
    fi

    # bin/activate is the last file that venv writes, and it names its own folder: without it the
    # environment is half made, and one that names another folder came with a moved project.
    # shellcheck disable=SC1091
    if ! (. "$venv/bin/activate" && [ "$VIRTUAL_ENV" -ef "$venv" ] &&
        "$venv/bin/python" -c "import pip") >/dev/null 2>&1; then
        python='' found=''
        for candidate in python3 python; do
            if "$candidate" -c \
                'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)' \
                >/dev/null 2>&1; then
                python="$candidate"
                break
            fi
            found="${found:-$("$candidate" --version 2>/dev/null)}" || true
        done
        if [ -z "$python" ]; then
            echo "activate.sh: Python 3.10 or newer, 64-bit, is needed (found: ${found:-none}):" \
                "install it and open a new terminal" >&2
            return 1
        fi
        echo "Making venv with $("$python" --version 2>&1) ..."
        if ! "$python" -m venv --clear "$venv" || [ ! -f "$venv/bin/activate" ]; then
            echo "activate.sh: could not make $venv" \
                "(Debian and Ubuntu first need: sudo apt install python3-venv)" >&2
            return 1
        fi
    fi

    # The copy of requirements.txt exists only while what it lists is completely installed.
    if ! cmp -s "$root/requirements.txt" "$venv/requirements.installed"; then
        echo "Installing packages into venv (a few minutes the first time) ..."
        if ! { command rm -f "$venv/requirements.installed" &&
            command cp -f "$root/requirements.txt" "$venv/requirements.new" &&
            "$venv/bin/python" -m pip install -q --disable-pip-version-check \
                -r "$root/requirements.txt" &&
            command mv -f "$venv/requirements.new" "$venv/requirements.installed"; }; then
            echo "activate.sh: could not install $root/requirements.txt (pip says why above);" \
                "source this file again to retry" >&2
            return 1
        fi
    fi

    # shellcheck disable=SC1091
    . "$venv/bin/activate" || return 1
    echo "The environment is active. Try next:"
    if [ ! "$root" -ef . ]; then echo "  cd \"$root\""; fi
    echo "  python jacobian/demo.py"
    echo "  cd FullSynthetic/DDPM-MNIST"
    echo "  python initialmain.py --help"
    echo "  python main.py --help"
    "$venv/bin/python" -W ignore -c "import torch; ok = torch.cuda.is_available(); ok and torch.ones(1, device='cuda').item(); print('CUDA: ' + torch.cuda.get_device_name() if ok else 'CUDA: no GPU is visible, so the CPU will be used')" 2>/dev/null ||
        echo "CUDA: PyTorch cannot be used; to see why: python -c \"import torch; torch.ones(1).cuda()\""
}

# A file that is executed instead of sourced could only activate a shell that ends with it.
if [ -n "${ZSH_VERSION:-}" ]; then
    case "${ZSH_EVAL_CONTEXT:-}" in
        *:file*) eval 'activate_project "${(%):-%x}"' ;;  # in eval: bash cannot read it
        *) activate_project "" ;;
    esac
elif [ -n "${BASH_VERSION:-}" ]; then
    if [ "${BASH_SOURCE[0]}" = "$0" ]; then
        activate_project ""
    else
        activate_project "${BASH_SOURCE[0]}"
    fi
else  # other shells do not tell a sourced file its path
    case "${0##*/}" in
        activate.sh) activate_project "" ;;
        *) activate_project ./activate.sh ;;
    esac
fi
