"""Its being here puts this directory on the path, for the helpers that tests share."""
