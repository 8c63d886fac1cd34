"""The shell code that loads environment modules in a pod and brings what they set to its containers."""

import re
from typing import Final

# What the init container's script is told, and the names that it gives besides.
LMOD: Final = "TASUKI_MODULES_LMOD"
MODULE_PATH: Final = "TASUKI_MODULES_PATH"
VARIABLES: Final = "TASUKI_MODULES_VARIABLES"
OUTPUT: Final = "TASUKI_MODULES_OUTPUT"
# Set wherever the modules are loaded: what was asked for.
LOADED: Final = "TASUKI_MODULES_LOADED"

# The files that it writes, by what follows the value of OUTPUT.
ENV_FILE: Final = ".env"
BASH_FILE: Final = ".bash"

# In bytes; the script has the number once more.
LONGEST_VALUE: Final = 60_000

# How programs find the module command: JupyterLab's extension, for one, runs LMOD_CMD itself.
TOOL_VARIABLES: Final = ("LMOD_CMD", "LMOD_DIR", "LMOD_PKG", "LMOD_ROOT", "LMOD_VERSION", "MODULESHOME")

# Bash's built-in commands only, but for an `mv` that it can do without: the image may have nothing else. No
# here-document either: bash wants a temporary file for it, and the root filesystem is read-only.
#
# The one file is in the syntax that the kubelet reads for fileKeyRef (KEP-3721; pkg/kubelet/util/env/env_util.go of
# 1.36): a value stands between single quotes and cannot hold one; lines end in \n, so that a \r before it is lost; a
# line of 64 KiB or more makes the whole file unreadable, and the container would never start. The other is for bash,
# and can say everything.
LOAD: Final = r"""
umask 022
set -f
complain() { printf 'tasuki: %s\n' "$*" >&2; }
export HOME="${HOME:-/}"
# A cache is of use to nobody here, and its folder may be read-only. Of two compilers, say, that were asked for, none
# silently takes the other's place.
export LMOD_SHORT_TIME=86400 LMOD_PAGER=none LMOD_COLORIZE=no LMOD_AUTO_SWAP=no
if [ ! -r "$TASUKI_MODULES_LMOD/init/bash" ]; then
  complain "there is no $TASUKI_MODULES_LMOD/init/bash: modules.lmod in the policy must be where containers have Lmod"
  exit 1
fi
theirs="${MODULEPATH-}"
. "$TASUKI_MODULES_LMOD/init/bash"
export MODULEPATH="$TASUKI_MODULES_PATH${theirs:+:$theirs}"
module load "$@" || { complain "could not load: $*"; exit 1; }
for each; do
  case $each in */[0-9]*) ;; *) continue;; esac
  case ":$LOADEDMODULES:" in
    *":$each"*) ;;
    *":${each%/*}/"*) complain "$each had to make way for another version, loaded are $LOADEDMODULES"; exit 1;;
  esac
done
export TASUKI_MODULES_LOADED="$*" TASUKI_MODULES_NOTES=kept

write_env() {
  local LC_ALL=C name value seen=' '
  for name; do
    case $name in ''|[0-9]*|*[!A-Za-z0-9_]*) complain "$name is no name of a variable: left out"; continue;; esac
    [[ $seen != *" $name "* ]] || continue
    seen+="$name "
    [[ -n ${!name+set} ]] || continue
    value=${!name}
    case $value in
      *\'*) complain "$name reaches bash scripts only: it has a single quote"; continue;;
      *$'\r\n'*) complain "$name reaches bash scripts only: it has a carriage return"; continue;;
    esac
    if [ "${#value}" -gt 60000 ]; then
      complain "$name reaches bash scripts only: its ${#value} bytes are more than 60000"
      continue
    fi
    printf "%s='%s'\n" "$name" "$value" || return
  done
}

exports() {
  local name
  for name; do
    case $name in ''|[0-9]*|*[!A-Za-z0-9_]*) continue;; esac
    [[ -z ${!name+set} ]] || printf '  export %s=%q\n' "$name" "${!name}" || return
  done
}

# Whoever reads it anew, as each script does that another starts, keeps what has been changed since. Where the kubelet
# gave the variables, the module command's own notes are missing.
write_bash() {
  printf 'unset -f module ml\nif [ "${TASUKI_MODULES_LOADED-}" != %q ]; then\n  :\n' "$*" || return
  exports $named || return
  printf 'fi\nif [ -z "${TASUKI_MODULES_NOTES-}" ]; then\n  :\n' || return
  exports $notes || return
  printf 'fi\n. %q\n' "$TASUKI_MODULES_LMOD/init/bash" || return
  case ${BASH_ENV-} in
    ''|"$TASUKI_MODULES_OUTPUT".*) ;;
    *) printf 'if [ -r %q ]; then . %q; fi\n' "$BASH_ENV" "$BASH_ENV";;
  esac
}

publish() {
  local file=$1
  shift
  "$@" >"$file.new" && { command mv -f "$file.new" "$file" 2>/dev/null || "$@" >"$file"; } && return
  complain "cannot write $file"
  exit 1
}

named="$TASUKI_MODULES_VARIABLES TASUKI_MODULES_LOADED ${!EBROOT@} ${!EBVERSION@}"
named+=" LMOD_CMD LMOD_DIR LMOD_PKG LMOD_ROOT LMOD_VERSION MODULESHOME MODULEPATH LOADEDMODULES _LMFILES_"
notes="TASUKI_MODULES_NOTES ${!_ModuleTable@} ${!__LMOD_REF_COUNT_@} ${!LMOD_FAMILY_@} ${!__MODULES_@}"
publish "$TASUKI_MODULES_OUTPUT.env" write_env $named $notes
publish "$TASUKI_MODULES_OUTPUT.bash" write_bash "$@"
"""

# The functions `module` and `ml` of every bash, also of one that a person types into, which reads no file of ours: the
# first call puts the tool's own in their place.
FUNCTIONS: Final = {
    f"BASH_FUNC_{name}%%": f"""() {{{{ unset -f module ml; . {{file}}; {name} "$@"; }}}}""" for name in ("module", "ml")
}

# What takes the place of a container's own command. Bash in POSIX mode reads no BASH_ENV, which is the user's business,
# and, unlike dash, hands on the functions that it got by its environment.
WRAPPER: Final = """set -a; . {file} && set +a && exec "$@\""""

_REFERENCE: Final = re.compile(r"\$(?=[$(])")


def literal(text: str) -> str:
    """So that the kubelet, which expands `$(NAME)` and `$$` in commands and environments, makes it `text` again."""
    return _REFERENCE.sub("$$", text)
