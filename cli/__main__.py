"""`python -m dspymq.cli`: the same as the `dspymq` command."""

from dspymq.cli.main import main

if __name__ == "__main__":
    main()
