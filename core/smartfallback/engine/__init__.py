"""Plan, dispatch, settle; the operator's commands; the snapshot."""
