from isotherm.pinn.train import main

# Workers of the restarts import this file again: without the condition each would start a training of its own.
if __name__ == "__main__":
    raise SystemExit(main())
