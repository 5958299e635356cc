# TAB for retrain in fish, made by `retrain completion fish`: each TAB asks the program what may follow.
function __retrain_complete
    set -l program (commandline -opc)[1]
    command -q -- $program; or set program retrain
    printf '%s' (commandline -cp | string collect) | $program completion fish --words 2>/dev/null
end
complete -c retrain -f -a '(__retrain_complete)'
