package command

import (
	"context"
	"io"

	"github.com/fettle-hpc/fettle/client/render"
)

const completionText = `Prints a script that completes commands and flags of fettle and its links.

   bash   source <(fettle completion bash)      in ~/.bashrc
   zsh    source <(fettle completion zsh)       in ~/.zshrc, after compinit
   fish   fettle completion fish | source       in ~/.config/fish/config.fish
`

const bashCompletion = `_fettle_complete() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words
  words=$("${COMP_WORDS[@]:0:COMP_CWORD}" "$cur" --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _fettle_complete fettle fsubmit fqueue fcancel finfo flog fctl
`

const zshCompletion = `_fettle_complete() {
  local -a found
  found=("${(@f)$("${words[@]:0:#words[@]-1}" "${words[-1]}" --generate-bash-completion 2>/dev/null)}")
  if [[ -n ${found[1]} ]]; then _describe 'values' found; else _files; fi
}
compdef _fettle_complete fettle fsubmit fqueue fcancel finfo flog fctl
`

const fishCompletion = `for c in fettle fsubmit fqueue fcancel finfo flog fctl
  complete -c $c -a '(set -l w (commandline -opc) (commandline -ct); $w --generate-bash-completion 2>/dev/null)'
end
`

func runCompletion(_ context.Context, c *call) error {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	if len(c.args) != 1 {
		return usagef("no shell named", "use bash, zsh or fish")
	}
	s, ok := scripts[c.args[0]]
	if !ok {
		return usagef("unknown shell "+render.Quote(show(c.args[0])), "use bash, zsh or fish")
	}
	_, err := io.WriteString(c.env.Stdout, s)
	return err
}
