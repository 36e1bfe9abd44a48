"""`python -m experiments.speed`."""

from experiments.speed.bank import main

if __name__ == "__main__":
    main()
