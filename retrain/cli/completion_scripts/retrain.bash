# TAB for retrain in bash, made by `retrain completion bash`: each TAB asks the program what may follow.
_retrain() {
  local program="${COMP_WORDS[0]/#\~/$HOME}" entry
  type -P "$program" >/dev/null || program=retrain
  COMPREPLY=()
  while IFS= read -r entry; do
    COMPREPLY+=("$entry")
  done < <(printf '%s' "${COMP_LINE:0:COMP_POINT}" |
    COMP_WORDBREAKS="$COMP_WORDBREAKS" "$program" completion bash --words 2>/dev/null)
}
complete -o nospace -F _retrain retrain
