"""Makes the scripts that complete septet's command line in bash and zsh, from the tables of verbs and configuration."""

from collections.abc import Iterator, Mapping

from orchestrator.cli.arguments import OVERRIDES, SUBMIT_OVERRIDES
from orchestrator.cli.parser import Verb
from orchestrator.config import GROUPS, group_choices, group_keys

# Bash cuts words at = and @; what it offers is then only what follows the cut.
_BASH = """_septet() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" line="${{COMP_LINE:0:COMP_POINT}}" words="" match
  local full="${{line##*[[:space:]]}}"
  [[ $cur == [=@] ]] && cur=""
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  (( COMP_CWORD == 1 )) && words="{verbs}"
  COMPREPLY=()
  while IFS= read -r match; do COMPREPLY+=("${{match#"${{full%"$cur"}}"}}"); done < <(compgen -W "$words" -- "$full")
  [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
}}
complete -o default -F _septet septet
"""
_ZSH = """_septet() {{
  local candidates=""
  case "${{words[2]}}" in
{cases}
  esac
  (( CURRENT == 2 )) && candidates="{verbs}"
  compadd -S '' -- ${{=candidates}} || {{ compset -P '*='; _files; }}
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
compdef _septet septet
"""


def completion_script(shell: str, verbs: Mapping[str, Verb]) -> str:
    """Returns the script for `shell`, bash or zsh."""
    template, name = (_BASH, "words") if shell == "bash" else (_ZSH, "candidates")
    cases = [f'    {verb}) {name}="{" ".join(_words(one))}" ;;' for verb, one in verbs.items()]
    return template.format(cases="\n".join(cases), verbs=" ".join(verbs))


def _words(verb: Verb) -> Iterator[str]:
    """Yields what may follow the verb, besides files: flags, groups with their choices, keys with theirs."""
    yield from verb.parser.flags
    yield from {"help": ("config", *GROUPS), "completion": ("bash", "zsh")}.get(verb.name, ())
    groups = ("combine", "submission") if SUBMIT_OVERRIDES in verb.parser.takes else ("", *GROUPS)
    for group in groups if {OVERRIDES, SUBMIT_OVERRIDES} & {*verb.parser.takes} else ():
        asked = "dataset@datasets.target" if group == "dataset" else group
        yield from (f"{asked}={choice}" for choice in (group_choices(group) if group else ()))
        # A name in angle brackets is the user's to choose.
        keys = [key for key in group_keys(group) if "<" not in key.name]
        yield from (f"{key.name}={word}" for key in keys for word in key.words or ("",))
