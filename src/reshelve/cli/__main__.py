"""`python -m reshelve.cli`, for where the script is not on the path."""

from reshelve.cli import main

main()
