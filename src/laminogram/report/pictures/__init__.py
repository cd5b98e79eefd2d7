"""One file a kind of picture: `RESULT`, the study's result that it shows, and `picture(result)`."""
