#compdef retrain
# TAB for retrain in zsh, made by `retrain completion zsh`: each TAB asks the program what may follow.
_retrain() {
  local program=${words[1]/#\~/$HOME} line
  whence -p -- $program >/dev/null || program=retrain
  line="${(j: :)words[1,CURRENT-1]} ${IPREFIX}${QIPREFIX}${PREFIX}"
  local -a answer whole open
  answer=("${(@f)$(print -rn -- $line | $program completion zsh --words 2>/dev/null)}")
  (( answer[1] )) && compset -p $answer[1]
  shift answer
  for line in $answer; do
    local text=${line%%$'\t'*} about=
    [[ $line == *$'\t'* ]] && about=:${line#*$'\t'}
    if [[ $text == *[=/.,@:] ]]; then
      open+=("${text//:/\\:}$about")
    else
      whole+=("${text//:/\\:}$about")
    fi
  done
  _describe -t retrain retrain whole -- open -S ''
}
if [[ $funcstack[1] == _retrain ]]; then
  _retrain "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
  compdef _retrain retrain
fi
